/* Numbered places where the crash test kills a process (tests/unit/shim): built only with MICA_CRASH_POINTS, nothing in the product. */
#ifndef MICA_CRASH_H
#define MICA_CRASH_H

#ifdef MICA_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { MICA_CRASH_LAST = 15 };

/* MICA_CRASH_AT=NUMBER:NTH kills the process when it passes the point for the nth time. */
static inline void mica_crash_point(int number)
{
    static _Atomic int passed;
    const char *at = getenv("MICA_CRASH_AT");
    char *rest;
    if (!at || strtol(at, &rest, 10) != number || *rest != ':')
        return;
    if (atomic_fetch_add(&passed, 1) + 1 == atoi(rest + 1))
        kill(getpid(), SIGKILL);
}
#define MICA_CRASH_POINT(number) mica_crash_point(number)

#else
#define MICA_CRASH_POINT(number) ((void)0)
#endif

#endif
