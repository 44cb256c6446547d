/* The scheduler of virtual time. Everything it knows is in a shared page; a POSIX lock on byte 0 of its file guards the page between processes and is
 * dropped by the kernel when a holder dies, a lock on byte 4096+p is held by process p while it lives. */
#include "clock.h"

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

enum { LOCK_PAGE = 0, LOCK_PROC = 4096, CLOCK_FD = 700, LOOK_NS = 20000000 };
static const char MAGIC[8] = {'M', 'I', 'C', 'A', 'C', 'L', 'K', '1'};

struct clock_page *clk;
__thread int clk_self = CLOCK_NOBODY;
int clk_proc = -1;
static int clock_fd = -1;
static int page_lock;   /* between threads of this process */
static int start_state; /* 0 not looked at, 1 looking, 2 done */

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

static int file_lock(int command, short type, off_t start)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
    long result;
    do
        result = clk_raw(SYS_fcntl, clock_fd, command, (long)&lock, 0, 0, 0);
    while (result == -EINTR);
    return command == F_GETLK && result == 0 ? lock.l_type : (int)result;
}

static void lock_page(void)
{
    int expected = 0;
    while (!__atomic_compare_exchange_n(&page_lock, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        expected = 0;
        clk_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
    (void)file_lock(F_SETLKW, F_WRLCK, LOCK_PAGE);
}

static void unlock_page(void)
{
    (void)file_lock(F_SETLK, F_UNLCK, LOCK_PAGE);
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
static void pass_on(void)
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

static void bury(uint32_t proc)
{
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state != THREAD_FREE && clk->threads[t].proc == proc)
            clk->threads[t].state = THREAD_FREE;
    clk->procs[proc].state = 0;
}

static bool dead(uint32_t proc)
{
    return (int)proc != clk_proc && clk->procs[proc].state == 1 && file_lock(F_GETLK, F_WRLCK, LOCK_PROC + (off_t)proc) == F_UNLCK;
}

/* The turn may be with a process that was killed, or with nobody although somebody could run. */
static void look_after_the_turn(void)
{
    lock_page();
    int holder = clk->holder;
    if (clk->started && holder >= 0 && (clk->threads[holder].state == THREAD_FREE || dead(clk->threads[holder].proc))) {
        if (clk->threads[holder].state != THREAD_FREE)
            bury(clk->threads[holder].proc);
        pass_on();
    } else if (clk->started && holder < 0) {
        pass_on();
    }
    if (holder != clk->holder && clk->holder == clk_self)
        clk->threads[clk_self].go = 1;
    unlock_page();
}

static void await_turn(void)
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
        (void)file_lock(F_SETLKW, F_RDLCK, LOCK_PROC + dying);
        (void)file_lock(F_SETLK, F_UNLCK, LOCK_PROC + dying);
        clk->dying = -1;
    }
}

/* Page locked; this thread's entry says what it waits for. */
static void give_turn(void)
{
    pass_on();
    bool mine = clk->holder == clk_self;
    unlock_page();
    if (!mine)
        await_turn();
}

bool clk_block(uint64_t wake, uint64_t key)
{
    struct clock_thread *me = &clk->threads[clk_self];
    lock_page();
    me->wake = wake != CLOCK_NEVER && wake < me->time ? me->time : wake;
    me->key = key;
    me->woken = 0;
    me->state = wake == CLOCK_NEVER ? THREAD_BLOCKED : THREAD_READY;
    give_turn();
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
    lock_page();
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
    unlock_page();
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
    lock_page();
    clk->threads[clk_self].state = THREAD_OUTSIDE;
    pass_on();
    unlock_page();
}

void clk_enter(void)
{
    struct clock_thread *me = &clk->threads[clk_self];
    lock_page();
    me->wake = me->time > clk->now ? me->time : clk->now;
    me->state = THREAD_READY;
    if (clk->holder < 0) {
        give_turn();
        return;
    }
    clk->horizon = me->wake < clk->horizon ? me->wake : clk->horizon;
    unlock_page();
    await_turn();
}

int clk_thread_new(int proc)
{
    int found = -1;
    lock_page();
    for (int t = 0; t < CLOCK_THREADS && found < 0; t++)
        if (clk->threads[t].state == THREAD_FREE)
            found = t;
    if (found >= 0) {
        uint64_t at = clk_time();
        clk->threads[found] = (struct clock_thread){.state = THREAD_READY, .proc = (uint32_t)proc, .wake = at, .time = at};
        clk->used = clk->used > (uint32_t)found ? clk->used : (uint32_t)found + 1;
        clk->horizon = at < clk->horizon ? at : clk->horizon;
    }
    unlock_page();
    return found;
}

void clk_thread_start(int entry)
{
    clk_self = entry;
    await_turn();
}

void clk_thread_end(void)
{
    lock_page();
    uint64_t key = clk_key(&clk->threads[clk_self]);
    clk->threads[clk_self].state = THREAD_FREE;
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state == THREAD_BLOCKED && clk->threads[t].key == key) {
            clk->threads[t].wake = clk->threads[clk_self].time > clk->threads[t].time ? clk->threads[clk_self].time : clk->threads[t].time;
            clk->threads[t].state = THREAD_READY;
        }
    clk_self = CLOCK_NOBODY;
    pass_on();
    unlock_page();
}

int clk_proc_new(void)
{
    int found = -1;
    lock_page();
    for (int p = (int)clk->join; p < CLOCK_PROCS && found < 0; p++)
        if (clk->procs[p].state == 0 || dead((uint32_t)p)) {
            bury((uint32_t)p);
            clk->procs[p].state = 2;
            found = p;
        }
    unlock_page();
    return found;
}

void clk_proc_start(int proc, int entry)
{
    page_lock = 0;
    clk_proc = proc;
    clk_self = entry;
    (void)file_lock(F_SETLK, F_WRLCK, LOCK_PROC + proc);
    clk->procs[proc].pid = (uint32_t)getpid();
    __atomic_store_n(&clk->procs[proc].state, 1, __ATOMIC_RELEASE);
    await_turn();
}

void clk_proc_wait(int proc, int entry, bool forked)
{
    while (forked && __atomic_load_n(&clk->procs[proc].state, __ATOMIC_ACQUIRE) == 2)
        clk_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    if (forked)
        return;
    lock_page();
    clk->threads[entry].state = THREAD_FREE;
    clk->procs[proc].state = 0;
    unlock_page();
}

/* Start. */

static uint64_t setting(const char *name, uint64_t missing)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : missing;
}

static void refuse(const char *what)
{
    char line[512];
    int length = snprintf(line, sizeof line, "mica-sim-clock: %s: %s; time is real\n", what, strerror(errno));
    clk_raw(SYS_write, 2, (long)line, length, 0, 0, 0);
}

static bool map_page(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return false;
    /* a high number: programs close low ones, and at exit what has lower numbers is closed before our lock goes */
    clock_fd = (int)clk_raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, CLOCK_FD, 0, 0, 0);
    (void)close(fd); /* no lock is held yet that this could drop */
    if (clock_fd < 0)
        return false;
    (void)file_lock(F_SETLKW, F_WRLCK, LOCK_PAGE);
    struct stat st;
    bool ok = fstat(clock_fd, &st) == 0 && (st.st_size || ftruncate(clock_fd, (off_t)sizeof *clk) == 0);
    clk = ok ? mmap(NULL, sizeof *clk, PROT_READ | PROT_WRITE, MAP_SHARED, clock_fd, 0) : MAP_FAILED;
    if (clk == MAP_FAILED) {
        clk = NULL;
    } else if (memcmp(clk->magic, MAGIC, sizeof MAGIC) != 0) {
        clk->version = 1;
        clk->join = (uint32_t)setting("MICA_SIM_CLOCK_JOIN", 1);
        clk->seed = setting("MICA_SIM_CLOCK_SEED", 1);
        clk->quantum = setting("MICA_SIM_CLOCK_QUANTUM_NS", 0);
        clk->read_ns = setting("MICA_SIM_CLOCK_READ_NS", 25);
        clk->now = CLOCK_EPOCH;
        clk->holder = clk->dying = -1;
        memcpy(clk->magic, MAGIC, sizeof MAGIC);
    }
    (void)file_lock(F_SETLK, F_UNLCK, LOCK_PAGE);
    return clk != NULL;
}

/* Page locked. The place of this process: the one it asks for among those that are waited for, else a free one. */
static int take_place(void)
{
    int wanted = (int)setting("MICA_SIM_CLOCK_ID", CLOCK_PROCS);
    if (clk->started || wanted >= (int)clk->join)
        wanted = -1;
    for (int p = wanted >= 0 ? wanted : clk->started ? (int)clk->join : 0; p < CLOCK_PROCS; p++) {
        if (clk->procs[p].state == 0 || dead((uint32_t)p)) {
            bury((uint32_t)p);
            return p;
        }
    }
    return -1;
}

static void join(void)
{
    lock_page();
    int place = take_place(), entry = -1;
    if (place >= 0) {
        clk_proc = place;
        (void)file_lock(F_SETLK, F_WRLCK, LOCK_PROC + place);
        clk->procs[place] = (struct clock_proc){1, (uint32_t)getpid()};
        /* the first threads have the numbers of their processes: the same order in every run */
        for (int t = clk->started ? (int)clk->join : place; t < CLOCK_THREADS && entry < 0; t++)
            if (clk->threads[t].state == THREAD_FREE)
                entry = t;
    }
    if (entry < 0) {
        unlock_page();
        errno = EAGAIN;
        refuse("too many processes or threads");
        clk = NULL;
        return;
    }
    clk->threads[entry] = (struct clock_thread){.state = THREAD_READY, .proc = (uint32_t)place, .wake = clk->now, .time = clk->now};
    clk->used = clk->used > (uint32_t)entry ? clk->used : (uint32_t)entry + 1;
    clk_self = entry;
    clk->joined++;
    if (clk->started)
        clk->horizon = clk->now < clk->horizon ? clk->now : clk->horizon;
    if (!clk->started && clk->joined >= clk->join) {
        clk->started = 1;
        give_turn();
        return;
    }
    unlock_page();
    await_turn();
}

static void start(void)
{
    int expected = 0;
    if (!__atomic_compare_exchange_n(&start_state, &expected, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return; /* looked at already, or by this thread further up */
    const char *path = getenv("MICA_SIM_CLOCK");
    if (path && *path && !map_page(path))
        refuse(path);
    if (clk)
        join();
    __atomic_store_n(&start_state, 2, __ATOMIC_RELEASE);
}

__attribute__((constructor)) static void start_early(void)
{
    start();
}

/* Exit: the turn goes on, and its next holder waits until the kernel has taken this process's locks. */
__attribute__((destructor)) static void stop(void)
{
    if (!clk || clk_self < 0)
        return;
    lock_page();
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state != THREAD_FREE && clk->threads[t].proc == (uint32_t)clk_proc)
            clk->threads[t].state = THREAD_FREE;
    clk->procs[clk_proc].state = 0;
    clk->dying = clk_proc;
    clk_self = CLOCK_NOBODY;
    pass_on();
    unlock_page();
}

bool clk_on(void)
{
    if (__atomic_load_n(&start_state, __ATOMIC_ACQUIRE) == 0)
        start();
    return clk && clk_self >= 0;
}

#pragma GCC visibility push(default)
bool mica_sim_clock_active(void)
{
    return clk_on();
}

uint64_t mica_sim_clock_now(void)
{
    return clk_time();
}

void mica_sim_clock_spend(uint64_t ns)
{
    if (clk_on())
        clk_spend(ns);
}
#pragma GCC visibility pop
