/* The real driver: where it is, its functions, and which of them we stand in for. */
#ifndef MICA_DRIVER_H
#define MICA_DRIVER_H

#include <stdbool.h>

#include "cuda_min.h"
#include "find.h"
#include "log.h"
#include "util.h"

/* Pointers to the driver's own functions; NULL for those it lacks. Valid once mica_driver() is true. */
struct mica_real {
#define H(symbol, class) __typeof__(symbol) *symbol;
#define U(symbol) __typeof__(symbol) *symbol;
#include "hooks.def"
#include "used.def"
#undef H
#undef U
};
extern struct mica_real mica_real;
extern _Atomic int mica_driver_state; /* 2 when loaded */
/* A forked child: threads that were loading are not here. */
void mica_driver_forked(void);
/* slice.c: from now on forked children start from nothing. */
void mica_slice_watch_forks(void);

/* Load the driver if that has not been tried; false when there is none. */
bool mica_driver_load(void);
static inline bool mica_driver(void)
{
    return MICA_LIKELY(atomic_load_explicit(&mica_driver_state, memory_order_acquire) == 2) || mica_driver_load();
}
/* The error for a call that has no real function behind it. */
CUresult mica_driver_absent(void);

/* A symbol of the driver by exact name, NULL when it has none. */
void *mica_driver_symbol(const char *name);
/* Our stand-in for a pointer that the driver gave out; the pointer itself when we have none. name settles aliases, may be NULL. */
void *mica_driver_route(void *pointer, const char *name);
/* The handle and load address of the driver. */
void *mica_driver_handle(void);
const void *mica_driver_base(void);

/* Call the real function, or answer that there is none. */
#define MICA_REAL(symbol, ...) \
    (MICA_LIKELY(mica_driver()) && mica_real.symbol ? mica_real.symbol(__VA_ARGS__) : mica_driver_absent())

/* lookup.c */
extern void *(*mica_real_dlsym)(void *handle, const char *name);
void mica_lookup_init(void);
/* A function of the C library by the name that the program would find; NULL when it has none. */
void *mica_lookup_plain(const char *name);

#endif
