/* Threads that do everything at once: all families of memory, launches, captures, graphs, contexts of their own. Everything is given back in the
 * end. Prints the bytes that are then still charged, and how many calls were refused for memory. usage: stress THREADS ROUNDS */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cuda_min.h"

enum { MIB2 = 2 << 20, KEPT = 6, MOST = 64 };

struct held {
    int family; /* 0: nothing */
    CUdeviceptr pointer;
    CUmemHandle handle;
};

static CUcontext shared;
static CUfunction function;
static int rounds;
static _Atomic int refused, failed;

struct worker {
    unsigned seed;
    CUstream stream;
    CUevent event;
    CUmempool pool;
    struct held kept[KEPT];
};

static bool ok(CUresult result, int line)
{
    if (result == MICA_CUDA_OUT_OF_MEMORY)
        refused++;
    else if (result && !failed++)
        fprintf(stderr, "line %d: error %d\n", line, result);
    return !result;
}
#define OK(call) ok((call), __LINE__)

static void take_virtual(struct held *held, size_t bytes)
{
    const CUmemProp prop = {.type = 1, .location = {MICA_LOCATION_DEVICE, 0}};
    if (!OK(cuMemCreate(&held->handle, bytes, &prop, 0)))
        return;
    if (OK(cuMemAddressReserve(&held->pointer, bytes, 0, 0, 0)) && OK(cuMemMap(held->pointer, bytes, 0, held->handle, 0)))
        held->family = 5;
    OK(cuMemRelease(held->handle)); /* the mapping keeps it */
}

static void take(struct worker *me, struct held *held)
{
    const size_t bytes = (size_t)(1 + rand_r(&me->seed) % 8) * MIB2;
    size_t pitch;
    int family = 1 + rand_r(&me->seed) % 6;
    bool taken = false;
    switch (family) {
    case 1: taken = OK(cuMemAlloc_v2(&held->pointer, bytes)); break;
    case 2: taken = OK(cuMemAllocManaged(&held->pointer, bytes, 1)); break;
    case 3: taken = OK(cuMemAllocPitch_v2(&held->pointer, &pitch, 1000, bytes / 1024, 4)); break;
    case 4: taken = OK(cuMemAllocAsync(&held->pointer, bytes, me->stream)); break;
    case 5: take_virtual(held, MIB2); return;
    default: taken = OK(cuMemAllocFromPoolAsync(&held->pointer, bytes, me->pool, me->stream)); break;
    }
    held->family = taken ? family : 0;
}

static void drop(struct worker *me, struct held *held)
{
    if (held->family == 5) {
        OK(cuMemUnmap(held->pointer, MIB2));
        OK(cuMemAddressFree(held->pointer, MIB2));
    } else if (held->family == 4 || held->family == 6) {
        OK(cuMemFreeAsync(held->pointer, me->stream));
    } else if (held->family) {
        OK(cuMemFree_v2(held->pointer));
    }
    held->family = 0;
}

static void launch(struct worker *me)
{
    uint64_t ns = 1000;
    void *params[] = {&ns};
    OK(cuLaunchKernel(function, 1 + (unsigned)rand_r(&me->seed) % 4, 1, 1, 32, 1, 1, 0, me->stream, params, NULL));
}

static void capture(struct worker *me)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    if (!OK(cuStreamBeginCapture_v2(me->stream, 2))) /* relaxed: the other threads go on allocating */
        return;
    launch(me);
    if (!OK(cuStreamEndCapture(me->stream, &graph)) || !OK(cuGraphInstantiateWithFlags(&exec, graph, 0)))
        return;
    OK(cuGraphLaunch(exec, me->stream));
    OK(cuStreamSynchronize(me->stream));
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

/* A context that is destroyed with memory in it. */
static void visit(void)
{
    CUcontext context;
    CUdeviceptr lost;
    if (!OK(cuCtxCreate_v2(&context, 0, 0)))
        return;
    OK(cuMemAlloc_v2(&lost, MIB2));
    OK(cuCtxDestroy_v2(context));
    OK(cuCtxSetCurrent(shared));
}

static void step(struct worker *me)
{
    size_t free_bytes, total;
    switch (rand_r(&me->seed) % 8) {
    case 0: OK(cuMemGetInfo_v2(&free_bytes, &total)); break;
    case 1: capture(me); break;
    case 2: OK(cuEventRecord(me->event, me->stream)); break;
    case 3: launch(me); break;
    case 4:
        if (rand_r(&me->seed) % 8 == 0)
            visit();
        break;
    default: {
        struct held *held = &me->kept[rand_r(&me->seed) % KEPT];
        held->family ? drop(me, held) : take(me, held);
    }
    }
}

static void *work(void *argument)
{
    const CUpoolProps props = {.type = 1, .location = {MICA_LOCATION_DEVICE, 0}};
    struct worker me = {.seed = *(unsigned *)argument};
    OK(cuCtxSetCurrent(shared));
    if (!OK(cuStreamCreate(&me.stream, 1)) || !OK(cuEventCreate(&me.event, 0)) || !OK(cuMemPoolCreate(&me.pool, &props)))
        return NULL;
    for (int i = 0; i < rounds; i++)
        step(&me);
    for (int i = 0; i < KEPT; i++)
        drop(&me, &me.kept[i]);
    OK(cuStreamSynchronize(me.stream));
    OK(cuMemPoolDestroy(me.pool));
    OK(cuEventDestroy_v2(me.event));
    OK(cuStreamDestroy_v2(me.stream));
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST];
    unsigned seeds[MOST];
    CUmodule module;
    int count = argc > 2 ? atoi(argv[1]) : 1;
    size_t free_bytes, total;
    rounds = argc > 2 ? atoi(argv[2]) : 0;
    if (count > MOST || cuInit(0) || cuDevicePrimaryCtxRetain(&shared, 0) || cuCtxSetCurrent(shared) || cuModuleLoadData(&module, "any")
        || cuModuleGetFunction(&function, module, "spin"))
        return 1;
    for (int i = 0; i < count; i++) {
        seeds[i] = (unsigned)i + 1;
        pthread_create(&threads[i], NULL, work, &seeds[i]);
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    OK(cuCtxSynchronize());
    cuMemGetInfo_v2(&free_bytes, &total);
    /* while there was managed memory, some of it may have been taken for a context's: that is measured anew every second */
    for (int i = 0; i < 300 && total != free_bytes; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        cuMemGetInfo_v2(&free_bytes, &total);
    }
    printf("%zu %d %d\n", total - free_bytes, refused, failed);
    return failed != 0;
}
