/* One kind of driver call over and over, to be counted from outside. Prints one line of JSON.
 *   calls launch|private|alloc|info COUNT LIVE    LIVE: blocks that are held meanwhile; private: launches of a program that has asked for one of
 *                                                 the driver's private tables, as the CUDA runtime does
 *   calls --ns THREADS launch|alloc|info COUNT LIVE    the median time of a call, 5 microseconds apart so that no cap makes it wait
 *   calls --system launch|alloc|info COUNT LIVE   the system calls of the calling thread in the second half, and a few of the
 *                                                 measuring itself: take off what COUNT 0 gives */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_min.h"

enum { MOST_THREADS = 64, APART_NS = 5000 };

static CUcontext context;
static CUfunction function;
static char kind;
static long count;
static CUdeviceptr *blocks;

static void fail(const char *what)
{
    fprintf(stderr, "calls: %s failed\n", what);
    exit(1);
}

static void once(CUstream stream)
{
    CUdeviceptr pointer;
    size_t free_bytes, total;
    if ((kind == 'l' || kind == 'p') && cuLaunchKernel(function, 64, 1, 1, 256, 1, 1, 0, stream, NULL, NULL))
        fail("launch");
    if (kind == 'a' && (cuMemAlloc_v2(&pointer, 4096) || cuMemFree_v2(pointer)))
        fail("alloc");
    if (kind == 'i' && cuMemGetInfo_v2(&free_bytes, &total))
        fail("info");
}

static void start(long live)
{
    CUmodule module;
    const void *table;
    const CUuuid id = {{0}};
    if (kind == 'p')
        (void)cuGetExportTable(&table, &id);
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) || cuModuleLoadData(&module, "any")
        || cuModuleGetFunction(&function, module, "any"))
        fail("start");
    blocks = calloc((size_t)live + 1, sizeof *blocks);
    for (long i = 0; i < live; i++)
        if (cuMemAlloc_v2(&blocks[i], 4096))
            fail("alloc");
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void *timed(void *argument)
{
    int64_t *each = calloc((size_t)count, sizeof *each), *out = argument;
    CUstream stream;
    if (!each || cuCtxSetCurrent(context) || cuStreamCreate(&stream, 1))
        fail("thread");
    for (long i = 0; i < count; i++) {
        int64_t before = now_ns();
        once(stream);
        int64_t after = now_ns();
        each[i] = after - before;
        while (now_ns() - after < APART_NS) {
        }
    }
    qsort(each, (size_t)count, sizeof *each, by_size);
    *out = each[count / 2];
    free(each);
    return NULL;
}

static void time_calls(int threads)
{
    pthread_t ids[MOST_THREADS];
    int64_t medians[MOST_THREADS], sum = 0;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, timed, &medians[i]))
            fail("thread");
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        sum += medians[i];
    }
    printf("{\"ns\": %.1f}\n", (double)sum / threads);
}

/* The half point is a raise, which the tracer sees. */
static void run(void)
{
    for (long i = 0; i < count / 2; i++)
        once(NULL);
    raise(SIGUSR1);
    for (long i = 0; i < count / 2; i++)
        once(NULL);
    raise(SIGUSR1);
}

static long trace(pid_t child)
{
    long stops = 0;
    int status, halves = 0;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status) && halves < 2) {
        int number = WSTOPSIG(status);
        halves += number == SIGUSR1;
        stops += halves == 1 && number == (SIGTRAP | 0x80);
        if (ptrace(PTRACE_SYSCALL, child, NULL, NULL))
            break;
    }
    kill(child, SIGKILL);
    return halves == 2 ? stops / 2 : -1;
}

static int count_system_calls(long live)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        start(live);
        run();
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)
        || ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) || ptrace(PTRACE_SYSCALL, child, NULL, NULL))
        fail("tracing");
    long calls = trace(child);
    printf("{\"system\": %ld}\n", calls);
    return calls < 0;
}

int main(int argc, char **argv)
{
    int threads = 0, at = 1;
    bool system = argc > 1 && strcmp(argv[1], "--system") == 0;
    if (argc > 2 && strcmp(argv[1], "--ns") == 0) {
        threads = atoi(argv[2]);
        at = 3;
    }
    at += system;
    if (argc != at + 3 || threads < 0 || threads > MOST_THREADS)
        return 2;
    kind = argv[at][0];
    count = atol(argv[at + 1]);
    if (system)
        return count_system_calls(atol(argv[at + 2]));
    start(atol(argv[at + 2]));
    if (threads) {
        time_calls(threads);
        return 0;
    }
    for (long i = 0; i < count; i++)
        once(NULL);
    puts("{}");
    return 0;
}
