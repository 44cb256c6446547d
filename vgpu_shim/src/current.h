/* Which meter is that of the calling thread's current context, without asking the driver: kept from one launch to the next, forgotten with every call
 * that changes the thread's context or ends any. Once a program has asked for one of the driver's private tables (cuGetExportTable: the CUDA runtime,
 * profilers), contexts can change in ways that nobody sees, and nothing is kept any more. Not thread-local storage of the compiler's, which costs a
 * call here, or room that may be missing when the limiter is loaded late. */
#ifndef MICA_CURRENT_H
#define MICA_CURRENT_H

#include "meter.h"

enum { MICA_THREADS = 256 };

/* Thread pointer (a multiple of 64, below 2^48) << 16, and the number of its meter + 1 below: one word, so that it is whole. */
extern _Atomic uint64_t mica_current_meters[MICA_THREADS];

/* The thread pointer, which no two living threads share. */
static inline uint64_t mica_current_thread(void)
{
    uint64_t thread;
#ifdef __aarch64__
    __asm__("mrs %0, tpidr_el0" : "=r"(thread));
#else
    __asm__("movq %%fs:0, %0" : "=r"(thread));
#endif
    return thread;
}

static inline _Atomic uint64_t *mica_current_place(uint64_t self)
{
    return &mica_current_meters[self * UINT64_C(0x9e3779b97f4a7c15) >> 56];
}

/* Number of the meter of the thread's current context; MICA_METERS or more: ask the driver. */
static inline uint64_t mica_current_number(void)
{
    const uint64_t self = mica_current_thread() << 16;
    return (atomic_load_explicit(mica_current_place(self), memory_order_relaxed) ^ self) - 1;
}

/* Ask the driver, and keep what it says: the number, MICA_METERS where there is no meter or no limits. The arguments of a launch stay where they are
 * meanwhile. */
#ifdef __clang__
__attribute__((preserve_most))
#endif
uint64_t mica_current_ask(void);
/* The calling thread's context may be another one now. */
void mica_current_changed(void);
/* A context is gone, or all of them. */
void mica_current_forget(void);

#endif
