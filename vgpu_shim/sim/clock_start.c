/* Becoming part of a group whose time is virtual, and leaving it: at load, at a fork, at exit. */
#include "clock_page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CLOCK_FD = 700 };
static const char MAGIC[8] = {'M', 'I', 'C', 'A', 'C', 'L', 'K', '1'};
static int start_state; /* 0 not looked at, 1 looking, 2 done */

int clk_proc_new(void)
{
    int found = -1;
    clk_lock_page();
    for (int p = (int)clk->join; p < CLOCK_PROCS && found < 0; p++)
        if (clk->procs[p].state == 0 || clk_dead((uint32_t)p)) {
            clk_bury((uint32_t)p);
            clk->procs[p].state = 2;
            found = p;
        }
    clk_unlock_page();
    return found;
}

void clk_proc_start(int proc, int entry)
{
    clk_page_forked();
    clk_proc = proc;
    clk_self = entry;
    (void)clk_file_lock(F_SETLK, F_WRLCK, LOCK_PROC + proc);
    clk->procs[proc].pid = (uint32_t)getpid();
    __atomic_store_n(&clk->procs[proc].state, 1, __ATOMIC_RELEASE);
    clk_await_turn();
}

void clk_proc_wait(int proc, int entry, bool forked)
{
    while (forked && __atomic_load_n(&clk->procs[proc].state, __ATOMIC_ACQUIRE) == 2)
        clk_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    if (forked)
        return;
    clk_lock_page();
    clk->threads[entry].state = THREAD_FREE;
    clk->procs[proc].state = 0;
    clk_unlock_page();
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
    clk_fd = (int)clk_raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, CLOCK_FD, 0, 0, 0);
    (void)close(fd); /* no lock is held yet that this could drop */
    if (clk_fd < 0)
        return false;
    (void)clk_file_lock(F_SETLKW, F_WRLCK, LOCK_PAGE);
    struct stat st;
    bool ok = fstat(clk_fd, &st) == 0 && (st.st_size || ftruncate(clk_fd, (off_t)sizeof *clk) == 0);
    clk = ok ? mmap(NULL, sizeof *clk, PROT_READ | PROT_WRITE, MAP_SHARED, clk_fd, 0) : MAP_FAILED;
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
    (void)clk_file_lock(F_SETLK, F_UNLCK, LOCK_PAGE);
    return clk != NULL;
}

/* Page locked. The place of this process: the one it asks for among those that are waited for, else a free one. */
static int take_place(void)
{
    int wanted = (int)setting("MICA_SIM_CLOCK_ID", CLOCK_PROCS);
    if (clk->started || wanted >= (int)clk->join)
        wanted = -1;
    for (int p = wanted >= 0 ? wanted : clk->started ? (int)clk->join : 0; p < CLOCK_PROCS; p++) {
        if (clk->procs[p].state == 0 || clk_dead((uint32_t)p)) {
            clk_bury((uint32_t)p);
            return p;
        }
    }
    return -1;
}

static void join(void)
{
    clk_lock_page();
    int place = take_place(), entry = -1;
    if (place >= 0) {
        clk_proc = place;
        (void)clk_file_lock(F_SETLK, F_WRLCK, LOCK_PROC + place);
        clk->procs[place] = (struct clock_proc){1, (uint32_t)getpid()};
        /* the first threads have the numbers of their processes: the same order in every run */
        for (int t = clk->started ? (int)clk->join : place; t < CLOCK_THREADS && entry < 0; t++)
            if (clk->threads[t].state == THREAD_FREE)
                entry = t;
    }
    if (entry < 0) {
        clk_unlock_page();
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
        clk_give_turn();
        return;
    }
    clk_unlock_page();
    clk_await_turn();
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
    clk_lock_page();
    for (int t = 0; t < (int)clk->used; t++)
        if (clk->threads[t].state != THREAD_FREE && clk->threads[t].proc == (uint32_t)clk_proc)
            clk->threads[t].state = THREAD_FREE;
    clk->procs[clk_proc].state = 0;
    clk->dying = clk_proc;
    clk_self = CLOCK_NOBODY;
    clk_pass_on();
    clk_unlock_page();
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
