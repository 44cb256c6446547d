/* See log.h. */
#include "log.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* A closed pipe on the other side must not end the program: its signal is blocked for this thread and taken away again. */
static void put(const char *line, size_t length)
{
    sigset_t pipe_only, before, waiting;
    const struct timespec at_once = {0};
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    bool had_one = sigpending(&waiting) == 0 && sigismember(&waiting, SIGPIPE) == 1;
    bool blocked = sigprocmask(SIG_BLOCK, &pipe_only, &before) == 0;
    if (write(STDERR_FILENO, line, length) < 0 && errno == EPIPE && blocked && !had_one)
        (void)sigtimedwait(&pipe_only, NULL, &at_once);
    if (blocked)
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
}

void mica_log(const char *format, ...)
{
    char line[512];
    int saved = errno;
    int length = snprintf(line, sizeof line, "mica[%d]: ", (int)getpid());
    va_list args;
    va_start(args, format);
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, args);
    va_end(args);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    put(line, (size_t)length);
    errno = saved;
}
