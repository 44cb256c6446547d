/* Virtual time for a group of processes: one thread of the group runs at a time, and time passes only when the running thread waits or is
 * charged for what it did. See docs/design/0003-simulated-gpu.md. */
#ifndef MICA_SIM_CLOCK_H
#define MICA_SIM_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* What the simulated driver uses of it; weak, because without libsimclock.so in front time is real. */
#pragma GCC visibility push(default)
__attribute__((weak)) bool mica_sim_clock_active(void);
/* Virtual nanoseconds of this thread, without a charge and without letting others run. */
__attribute__((weak)) uint64_t mica_sim_clock_now(void);
/* Charge the calling thread; others whose time has come run first. Not with a lock held. */
__attribute__((weak)) void mica_sim_clock_spend(uint64_t ns);
#pragma GCC visibility pop

/* The rest is libsimclock.so's own. */
enum { CLOCK_THREADS = 512, CLOCK_PROCS = 128, CLOCK_NOBODY = -1 };
enum { THREAD_FREE = 0, THREAD_READY, THREAD_BLOCKED, THREAD_OUTSIDE };
#define CLOCK_EPOCH UINT64_C(1000000000000) /* CLOCK_MONOTONIC begins here */
#define CLOCK_NEVER UINT64_MAX

struct clock_thread {
    uint32_t state;
    uint32_t go; /* futex: 1 = it is your turn */
    uint32_t proc;
    uint32_t woken;
    uint64_t wake; /* not before this time; CLOCK_NEVER while BLOCKED */
    uint64_t key;  /* what it waits for, 0 = nothing */
    uint64_t time;
    uint64_t pthread; /* handle, meaningful in its own process */
};

struct clock_proc {
    uint32_t state; /* 0 free, 1 alive, 2 coming up */
    uint32_t pid;
};

struct clock_page {
    char magic[8];
    uint32_t version, join, joined, started;
    uint64_t seed, quantum, read_ns;
    uint64_t now;     /* time of the last thread that got its turn */
    uint64_t horizon; /* earliest time another thread wants to run */
    int32_t holder;
    int32_t dying; /* process whose death the next holder awaits */
    uint64_t handoffs;
    uint32_t used, reserved; /* threads at or above were never taken */
    struct clock_proc procs[CLOCK_PROCS];
    struct clock_thread threads[CLOCK_THREADS];
};

extern struct clock_page *clk;
extern __thread int clk_self; /* this thread's entry, -1 = not a participant */
extern int clk_proc;

/* True when this process is part of a simulation and this thread takes part. */
bool clk_on(void);
uint64_t clk_time(void);
void clk_spend(uint64_t ns);
/* Let others run until `wake` (CLOCK_NEVER: without end) or until somebody wakes `key`; true when woken. */
bool clk_block(uint64_t wake, uint64_t key);
/* Make up to `count` threads that wait for the key ready; returns how many. */
int clk_wake(uint64_t key, int count);
/* Wake every waiter for which the keys agree in these bits. */
int clk_wake_masked(uint64_t key, uint64_t mask, int count);
/* Stop taking part around a call that waits for something the clock does not know; take part again. */
void clk_leave(void);
void clk_enter(void);
/* An entry for a thread to be (in `proc`), ready now; -1 when there is none. */
int clk_thread_new(int proc);
void clk_thread_start(int entry);
void clk_thread_end(void);
/* Fork: a place for the child; in the child; in the parent once the child is up (or failed). */
int clk_proc_new(void);
void clk_proc_start(int proc, int entry);
void clk_proc_wait(int proc, int entry, bool forked);
/* Key of an address of this process. */
uint64_t clk_key(const void *address);
long clk_raw(long number, long a, long b, long c, long d, long e, long f);
void *clk_real(const char *name);

#endif
