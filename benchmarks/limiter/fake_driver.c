/* A driver that does next to nothing, so that what a call costs beside it is the limiter. Its own cost is measured too and taken off. Kernels take
 * 0.2 microseconds one after the other, and events are stamped accordingly: too little for a cap to make a launch wait. Not a simulator. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_min.h"

#pragma GCC visibility push(default)

enum { BLOCKS = 1 << 15, FIRST = 1 << 30, STEP = 1 << 21, KERNEL_NS = 200 };
static size_t sizes[BLOCKS];
static unsigned unused[BLOCKS];
static unsigned unused_count, made;
static atomic_flag lock = ATOMIC_FLAG_INIT;
static _Atomic uint64_t busy_until, held;
static __thread CUcontext context;
static __thread int capture_mode;
static const size_t total = (size_t)80 << 30;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

CUresult cuInit(unsigned flags)
{
    (void)flags;
    return 0;
}

CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    (void)id;
    *table = NULL;
    return MICA_CUDA_INVALID_VALUE;
}

CUresult cuDriverGetVersion(int *version)
{
    *version = 13000;
    return 0;
}

CUresult cuDeviceGetCount(int *count)
{
    *count = 1;
    return 0;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return ordinal ? MICA_CUDA_INVALID_DEVICE : 0;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    (void)device;
    memset(uuid, 0x5a, sizeof *uuid);
    return 0;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device)
{
    (void)device;
    *out = (CUcontext)64;
    return 0;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    (void)device;
    *flags = 0;
    *active = 1;
    return 0;
}

CUresult cuCtxSetCurrent(CUcontext wanted)
{
    context = wanted;
    return 0;
}

CUresult cuCtxGetCurrent(CUcontext *out)
{
    *out = context;
    return 0;
}

CUresult cuCtxPushCurrent_v2(CUcontext wanted)
{
    context = wanted;
    return 0;
}

CUresult cuCtxPopCurrent_v2(CUcontext *out)
{
    *out = context;
    return 0;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    *device = 0;
    return context ? 0 : MICA_CUDA_INVALID_CONTEXT;
}

CUresult cuCtxSynchronize(void)
{
    return 0;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    (void)device;
    *bytes = total;
    return 0;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *bytes)
{
    *bytes = total;
    *free_bytes = total - held;
    return 0;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) {
    }
    unsigned at = unused_count ? unused[--unused_count] : made < BLOCKS ? made++ : BLOCKS;
    if (at < BLOCKS)
        sizes[at] = bytes;
    atomic_flag_clear_explicit(&lock, memory_order_release);
    *pointer = (CUdeviceptr)FIRST + (CUdeviceptr)at * STEP;
    held += bytes;
    return at < BLOCKS ? 0 : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    unsigned at = (unsigned)((pointer - FIRST) / STEP);
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) {
    }
    held -= sizes[at];
    unused[unused_count++] = at;
    atomic_flag_clear_explicit(&lock, memory_order_release);
    return 0;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer)
{
    *base = pointer;
    *size = sizes[(pointer - FIRST) / STEP];
    return 0;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    (void)image;
    *module = (CUmodule)128;
    return 0;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    (void)module;
    (void)name;
    *function = (CUfunction)192;
    return 0;
}

CUresult cuLaunchKernel(MICA_LAUNCH_ARGS, void **extra)
{
    (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared_bytes, (void)stream, (void)params, (void)extra;
    uint64_t now = now_ns(), old = atomic_load_explicit(&busy_until, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&busy_until, &old, later(old, now) + KERNEL_NS, memory_order_relaxed, memory_order_relaxed)) {
    }
    return 0;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    (void)flags;
    *stream = malloc(16);
    return *stream ? 0 : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
    (void)stream;
    *status = 0;
    return 0;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext *out)
{
    (void)stream;
    *out = (CUcontext)64;
    return 0;
}

CUresult cuStreamGetDevice(CUstream stream, CUdevice *device)
{
    (void)stream;
    *device = 0;
    return 0;
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode)
{
    int old = capture_mode;
    capture_mode = *mode;
    *mode = old;
    return 0;
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, 16);
    return *event ? 0 : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    free(event);
    return 0;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    (void)stream;
    *(uint64_t *)(void *)event = later(now_ns(), atomic_load_explicit(&busy_until, memory_order_relaxed));
    return 0;
}

CUresult cuEventQuery(CUevent event)
{
    return *(uint64_t *)(void *)event <= now_ns() ? 0 : MICA_CUDA_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event)
{
    (void)event;
    return 0;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    *milliseconds = (float)(*(int64_t *)(void *)end - *(int64_t *)(void *)start) * 1e-6f;
    return 0;
}

#pragma GCC visibility pop
