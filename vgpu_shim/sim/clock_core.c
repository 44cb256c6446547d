/* The scheduler of virtual time. Everything it knows is in a shared page; a POSIX lock on byte 0 of its file guards the page between processes and is
 * dropped by the kernel when a holder dies, a lock on byte 4096+p is held by process p while it lives. */
#include "clock_page.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_NS = 20000000 };

struct clock_page *clk;
__thread int clk_self = CLOCK_NOBODY;
int clk_proc = -1;
int clk_fd = -1;
static int page_lock; /* between threads of this process */

long clk_raw(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}

void *clk_real(const char *name)
{
    /* newest form first: 2.34 made libpthread part of libc, 2.3.2 renewed the conditions */
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.3.2", "GLIBC_2.2.5"};
    void *found = NULL;
    for (int v = 0; v < 3 && !found; v++)
        found = dlvsym(RTLD_NEXT, name, versions[v]);
    return found;
}

int clk_file_lock(int command, short type, off_t start)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
    long result;
    do
        result = clk_raw(SYS_fcntl, clk_fd, command, (long)&lock, 0, 0, 0);
    while (result == -EINTR);
    return command == F_GETLK && result == 0 ? lock.l_type : (int)result;
}

void clk_lock_page(void)
{
    int expected = 0;
    while (!__atomic_compare_exchange_n(&page_lock, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        expected = 0;
        clk_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
    (void)clk_file_lock(F_SETLKW, F_WRLCK, LOCK_PAGE);
}

void clk_page_forked(void)
{
    page_lock = 0;
}

void clk_unlock_page(void)
{
    (void)clk_file_lock(F_SETLK, F_UNLCK, LOCK_PAGE);
    __atomic_store_n(&page_lock, 0, __ATOMIC_RELEASE);
}

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Page locked. The ready thread whose time is next; equal times in an order of the seed. Sets the horizon to the time after it. */
static int choose(void)
{
    int best = CLOCK_NOBODY;
    uint64_t best_rank = 0, second = CLOCK_NEVER;
    for (int t = 0; t < (int)clk->used; t++) {
        const struct clock_thread *at = &clk->threads[t];
        if (at->state != THREAD_READY)
            continue;
        uint64_t rank = mix(clk->seed ^ mix(at->wake ^ (uint64_t)t << 48));
        if (best >= 0 && (at->wake > clk->threads[best].wake || (at->wake == clk->threads[best].wake && rank > best_rank))) {
            second = at->wake < second ? at->wake : second;
            continue;
        }
        if (best >= 0)
            second = clk->threads[best].wake;
        best = t;
        best_rank = rank;
    }
    clk->horizon = second;
    return best;
}

/* Page locked. Give the turn to the next thread. */
void clk_pass_on(void)
{
    int next = choose();
    clk->holder = next;
    if (next < 0)
        return;
    struct clock_thread *thread = &clk->threads[next];
    thread->time = thread->wake > thread->time ? thread->wake : thread->time;
    thread->key = 0;
    clk->now = thread->time > clk->now ? thread->time : clk->now;
    clk->handoffs++;
    if (next == clk_self)
        return;
    __atomic_store_n(&thread->go, 1, __ATOMIC_RELEASE);
    clk_raw(SYS_futex, (long)&thread->go, FUTEX_WAKE, 1, 0, 0, 0);
}

void clk_bury(uint32_t proc)
{
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state != THREAD_FREE && clk->threads[t].proc == proc)
            clk->threads[t].state = THREAD_FREE;
    clk->procs[proc].state = 0;
}

bool clk_dead(uint32_t proc)
{
    return (int)proc != clk_proc && clk->procs[proc].state == 1 && clk_file_lock(F_GETLK, F_WRLCK, LOCK_PROC + (off_t)proc) == F_UNLCK;
}

/* The turn may be with a process that was killed, or with nobody although somebody could run. */
static void look_after_the_turn(void)
{
    clk_lock_page();
    int holder = clk->holder;
    if (clk->started && holder >= 0 && (clk->threads[holder].state == THREAD_FREE || clk_dead(clk->threads[holder].proc))) {
        if (clk->threads[holder].state != THREAD_FREE)
            clk_bury(clk->threads[holder].proc);
        clk_pass_on();
    } else if (clk->started && holder < 0) {
        clk_pass_on();
    }
    if (holder != clk->holder && clk->holder == clk_self)
        clk->threads[clk_self].go = 1;
    clk_unlock_page();
}

void clk_await_turn(void)
{
    struct clock_thread *me = &clk->threads[clk_self];
    while (!__atomic_load_n(&me->go, __ATOMIC_ACQUIRE)) {
        struct timespec ts = {.tv_nsec = LOOK_NS};
        if (clk_raw(SYS_futex, (long)&me->go, FUTEX_WAIT, 0, (long)&ts, 0, 0) == -ETIMEDOUT)
            look_after_the_turn();
    }
    __atomic_store_n(&me->go, 0, __ATOMIC_RELAXED);
    me->state = THREAD_READY;
    int dying = clk->dying;
    if (dying >= 0 && dying != clk_proc) {
        /* what its death releases must be released before anybody looks, or a run would depend on the host's speed */
        (void)clk_file_lock(F_SETLKW, F_RDLCK, LOCK_PROC + dying);
        (void)clk_file_lock(F_SETLK, F_UNLCK, LOCK_PROC + dying);
        clk->dying = -1;
    }
}

/* Page locked; this thread's entry says what it waits for. */
void clk_give_turn(void)
{
    clk_pass_on();
    bool mine = clk->holder == clk_self;
    clk_unlock_page();
    if (!mine)
        clk_await_turn();
}

bool clk_block(uint64_t wake, uint64_t key)
{
    struct clock_thread *me = &clk->threads[clk_self];
    clk_lock_page();
    me->wake = wake != CLOCK_NEVER && wake < me->time ? me->time : wake;
    me->key = key;
    me->woken = 0;
    me->state = wake == CLOCK_NEVER ? THREAD_BLOCKED : THREAD_READY;
    clk_give_turn();
    return me->woken != 0;
}

uint64_t clk_time(void)
{
    return clk_self >= 0 ? clk->threads[clk_self].time : clk->now;
}

void clk_spend(uint64_t ns)
{
    struct clock_thread *me = &clk->threads[clk_self];
    me->time += ns;
    if (me->time > clk->horizon && me->time - clk->horizon > clk->quantum)
        (void)clk_block(me->time, 0);
}

int clk_wake_masked(uint64_t key, uint64_t mask, int count)
{
    int woken = 0;
    uint64_t now = clk_time();
    clk_lock_page();
    for (int t = 0; t < (int)clk->used && woken < count; t++) {
        struct clock_thread *thread = &clk->threads[t];
        if ((thread->state != THREAD_READY && thread->state != THREAD_BLOCKED) || !thread->key || (thread->key & mask) != (key & mask) || t == clk_self)
            continue;
        thread->wake = now > thread->time ? now : thread->time;
        thread->state = THREAD_READY;
        thread->woken = 1;
        thread->key = 0;
        clk->horizon = thread->wake < clk->horizon ? thread->wake : clk->horizon;
        woken++;
    }
    clk_unlock_page();
    return woken;
}

int clk_wake(uint64_t key, int count)
{
    return clk_wake_masked(key, UINT64_MAX, count);
}

uint64_t clk_key(const void *address)
{
    /* bit 63 marks a key of one process, in which the address is unique */
    return UINT64_C(1) << 63 | (uint64_t)clk_proc << 48 | ((uintptr_t)address & UINT64_C(0xffffffffffff));
}

void clk_leave(void)
{
    clk_lock_page();
    clk->threads[clk_self].state = THREAD_OUTSIDE;
    clk_pass_on();
    clk_unlock_page();
}

void clk_enter(void)
{
    struct clock_thread *me = &clk->threads[clk_self];
    clk_lock_page();
    me->wake = me->time > clk->now ? me->time : clk->now;
    me->state = THREAD_READY;
    if (clk->holder < 0) {
        clk_give_turn();
        return;
    }
    clk->horizon = me->wake < clk->horizon ? me->wake : clk->horizon;
    clk_unlock_page();
    clk_await_turn();
}

int clk_thread_new(int proc)
{
    int found = -1;
    clk_lock_page();
    for (int t = 0; t < CLOCK_THREADS && found < 0; t++)
        if (clk->threads[t].state == THREAD_FREE)
            found = t;
    if (found >= 0) {
        uint64_t at = clk_time();
        clk->threads[found] = (struct clock_thread){.state = THREAD_READY, .proc = (uint32_t)proc, .wake = at, .time = at};
        clk->used = clk->used > (uint32_t)found ? clk->used : (uint32_t)found + 1;
        clk->horizon = at < clk->horizon ? at : clk->horizon;
    }
    clk_unlock_page();
    return found;
}

void clk_thread_start(int entry)
{
    clk_self = entry;
    clk_await_turn();
}

void clk_thread_end(void)
{
    clk_lock_page();
    uint64_t key = clk_key(&clk->threads[clk_self]);
    clk->threads[clk_self].state = THREAD_FREE;
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state == THREAD_BLOCKED && clk->threads[t].key == key) {
            clk->threads[t].wake = clk->threads[clk_self].time > clk->threads[t].time ? clk->threads[clk_self].time : clk->threads[t].time;
            clk->threads[t].state = THREAD_READY;
        }
    clk_self = CLOCK_NOBODY;
    clk_pass_on();
    clk_unlock_page();
}
