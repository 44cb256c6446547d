/* Small things every part needs: a lock that costs one atomic when free and needs no libpthread, and the clock. */
#ifndef MICA_UTIL_H
#define MICA_UTIL_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MICA_LIKELY(x) __builtin_expect(!!(x), 1)
#define MICA_UNLIKELY(x) __builtin_expect(!!(x), 0)

typedef _Atomic int mica_lock; /* 0 free, 1 held, 2 held and waited for */

static inline int mica_try(mica_lock *lock)
{
    int expected = 0;
    return atomic_compare_exchange_strong_explicit(lock, &expected, 1, memory_order_acquire, memory_order_relaxed);
}

static inline void mica_acquire(mica_lock *lock)
{
    if (MICA_LIKELY(mica_try(lock)))
        return;
    while (atomic_exchange_explicit(lock, 2, memory_order_acquire) != 0)
        syscall(SYS_futex, lock, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

static inline void mica_release(mica_lock *lock)
{
    if (MICA_UNLIKELY(atomic_exchange_explicit(lock, 0, memory_order_release) == 2))
        syscall(SYS_futex, lock, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* The limiter's clock, in nanoseconds; the one place to put another one. */
static inline uint64_t mica_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The processor's own counter: for "not again so soon", where reading the clock would cost more than what it guards. */
static inline uint64_t mica_counter(void)
{
#ifdef __aarch64__
    uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value << 5; /* 25 MHz to 1 GHz */
#else
    return __builtin_ia32_rdtsc();
#endif
}

/* True once every 2^24 counts, 5 to 20 ms; whose turn it is stores the count. */
static inline int mica_due(_Atomic uint64_t *last)
{
    uint64_t now = mica_counter();
    if (MICA_LIKELY(now - atomic_load_explicit(last, memory_order_relaxed) < UINT64_C(1) << 24))
        return 0;
    atomic_store_explicit(last, now, memory_order_relaxed);
    return 1;
}

static inline void mica_sleep(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* Zeroed memory that is not the application's allocator's; at is NULL when there is none. */
struct mica_pages {
    void *at;
    size_t bytes;
};

static inline struct mica_pages mica_pages_get(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return (struct mica_pages){at == MAP_FAILED ? NULL : at, bytes};
}

static inline void mica_pages_put(struct mica_pages pages)
{
    if (pages.at)
        munmap(pages.at, pages.bytes);
}

#endif
