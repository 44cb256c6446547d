/* Processes that allocate and free on one card, of which one is killed at a numbered point of the ledger (src/crash.h). With everybody stopped, the
 * total must cover all slots; when the dead have been reaped it must equal what the living hold; in the end nothing is left.
 * usage: crashes REGION POINT RUNS SEED   prints {"died", "missed", "broken"} */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_min.h"
#include "region.h"

enum { OTHERS = 3, KEPT = 8, MIB2 = 2 << 20, STEPS = 400, LIMIT = 1 << 30 };
enum { GO = 1, SETTLE, EMPTY };

struct board { /* shared by all */
    _Atomic int phase, ready, settled, emptied;
};
static struct board *board;
static const struct mica_region *region;

static void wait_for(_Atomic int *word, int value)
{
    const struct timespec nap = {.tv_nsec = 200000};
    while (atomic_load(word) < value)
        nanosleep(&nap, NULL);
}

struct worker {
    unsigned seed;
    CUdeviceptr held[KEPT];
    bool async[KEPT];
};

static void drop(struct worker *me, int place)
{
    if (me->held[place])
        me->async[place] ? cuMemFreeAsync(me->held[place], NULL) : cuMemFree_v2(me->held[place]);
    me->held[place] = 0;
}

static void step(struct worker *me)
{
    const int place = rand_r(&me->seed) % KEPT;
    const size_t bytes = (size_t)(1 + rand_r(&me->seed) % 8) * MIB2;
    CUdeviceptr *held = &me->held[place];
    if (*held) {
        drop(me, place);
        return;
    }
    me->async[place] = rand_r(&me->seed) % 4 == 0;
    if (me->async[place] ? cuMemAllocAsync(held, bytes, NULL) : cuMemAlloc_v2(held, bytes))
        *held = 0;
}

static void begin(void)
{
    CUcontext context;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context))
        _exit(9);
}

/* Holds memory and dies with it, so that somebody has to reap. */
static void corpse(void)
{
    CUdeviceptr pointer;
    begin();
    if (cuMemAlloc_v2(&pointer, 4 * MIB2))
        _exit(9);
    kill(getpid(), SIGKILL);
}

static void victim(unsigned seed, const char *at)
{
    struct worker me = {.seed = seed};
    setenv("MICA_CRASH_AT", at, 1);
    begin();
    for (int i = 0; i < STEPS; i++)
        step(&me);
    _exit(0); /* the point was not passed that often */
}

/* An allocation that does not fit looks for the dead. The first process does it when the others are quiet. */
static void look_for_the_dead(bool first, _Atomic int *done)
{
    CUdeviceptr whole;
    if (first) {
        wait_for(done, OTHERS - 1);
        if (cuMemAlloc_v2(&whole, LIMIT) == 0)
            (void)cuMemFree_v2(whole);
    }
    atomic_fetch_add(done, 1);
}

static void other(unsigned seed)
{
    struct worker me = {.seed = seed};
    const bool first = seed % OTHERS == 0;
    begin();
    atomic_fetch_add(&board->ready, 1);
    while (atomic_load(&board->phase) < SETTLE)
        step(&me);
    look_for_the_dead(first, &board->settled);
    wait_for(&board->phase, EMPTY);
    for (int i = 0; i < KEPT; i++)
        drop(&me, i);
    (void)cuCtxSynchronize();
    look_for_the_dead(first, &board->emptied);
    pause();
}

static uint64_t total(void)
{
    return atomic_load(&region->gpus[0].used) & MICA_USED_MASK;
}

static uint64_t slots(void)
{
    uint64_t sum = 0;
    for (int s = 0; s < MICA_SLOTS; s++)
        sum += atomic_load(&region->slots[s].used[0]) & MICA_USED_MASK;
    return sum;
}

static void each(const pid_t pids[], int number, int status_wanted)
{
    int status;
    for (int i = 0; i < OTHERS; i++)
        kill(pids[i], number);
    for (int i = 0; i < OTHERS && status_wanted; i++)
        waitpid(pids[i], &status, status_wanted);
}

static pid_t start(void (*what)(unsigned), unsigned seed)
{
    pid_t pid = fork();
    if (pid == 0) {
        what(seed);
        _exit(9);
    }
    return pid;
}

static void start_corpse(unsigned seed)
{
    (void)seed;
    corpse();
}

static bool claim(bool holds, const char *what)
{
    if (!holds)
        fprintf(stderr, "%s: total %llu, slots %llu\n", what, (unsigned long long)total(), (unsigned long long)slots());
    return holds;
}

/* 1 died, 0 missed, -1 broken. */
static int run(int point, unsigned seed)
{
    char at[32];
    pid_t others[OTHERS];
    int status;
    *board = (struct board){0};
    snprintf(at, sizeof at, "%d:%u", point, 1 + seed % 7);
    for (unsigned i = 0; i < OTHERS; i++)
        others[i] = start(other, seed * OTHERS + i);
    wait_for(&board->ready, OTHERS);
    pid_t dead = start(start_corpse, seed);
    waitpid(dead, &status, 0);
    pid_t pid = fork();
    if (pid == 0)
        victim(seed, at);
    waitpid(pid, &status, 0);
    bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    bool ok = died || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
    each(others, SIGSTOP, WUNTRACED);
    ok = claim(total() >= slots(), "at the crash") && ok;
    each(others, SIGCONT, 0);
    atomic_store(&board->phase, SETTLE);
    wait_for(&board->settled, OTHERS);
    ok = claim(total() == slots(), "reaped") && ok;
    atomic_store(&board->phase, EMPTY);
    wait_for(&board->emptied, OTHERS);
    ok = claim(total() == 0 && slots() == 0, "empty") && ok;
    each(others, SIGKILL, 0);
    for (int i = 0; i < OTHERS; i++)
        waitpid(others[i], &status, 0);
    return !ok ? -1 : died;
}

int main(int argc, char **argv)
{
    int counts[3] = {0}, fd = argc == 5 ? open(argv[1], O_RDONLY) : -1;
    region = fd < 0 ? MAP_FAILED : mmap(NULL, MICA_REGION_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || board == MAP_FAILED)
        return 2;
    for (int i = 0; i < atoi(argv[3]); i++)
        counts[1 + run(atoi(argv[2]), (unsigned)(atoi(argv[4]) * 1000 + i))]++;
    printf("{\"died\": %d, \"missed\": %d, \"broken\": %d}\n", counts[2], counts[1], counts[0]);
    return counts[0] != 0;
}
