/* Allocations: reserve before calling the driver, so that no interleaving of threads and processes passes the cap; correct to what the
 * driver really took; give back when it is freed. */
#include "memory.h"

static struct mica_table allocations;
static struct mica_table pools; /* key: pool of the program's own; gpu */

bool mica_charge(int gpu, uint64_t bytes)
{
    uint64_t limit = atomic_load_explicit(&mica_slice.memory[gpu], memory_order_relaxed);
    bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed);
    if (!enforce && (bytes > limit || mica_ledger_used(gpu) > limit - bytes))
        MICA_LOG_ONCE("GPU %d: an allocation of %llu bytes passes the limit of %llu (mode=report: allowed)", gpu, (unsigned long long)bytes,
                      (unsigned long long)limit);
    return mica_ledger_reserve(gpu, bytes, limit, enforce);
}

/* gpu becomes MICA_GPU_NONE where the driver alone decides. */
static CUresult may_use(int *gpu, CUresult error)
{
    if (*gpu != MICA_GPU_FOREIGN)
        return MICA_CUDA_SUCCESS;
    *gpu = MICA_GPU_NONE;
    return mica_slice_foreign(error);
}

static CUresult begin(void)
{
    CUresult result = mica_slice_check();
    if (!result)
        mica_slice_tick(mica_now());
    return result;
}

static CUresult gate_current(int *gpu)
{
    CUresult result = begin();
    if (result)
        return result;
    *gpu = mica_gpu_current();
    return may_use(gpu, MICA_CUDA_OUT_OF_MEMORY);
}

/* GPU of a stream, which need not be the current context's. */
static int gpu_of_stream(CUstream stream)
{
    CUdevice device;
    CUcontext context = NULL, back = NULL;
    if (!stream || stream == MICA_STREAM_LEGACY || stream == MICA_STREAM_PER_THREAD)
        return mica_gpu_current();
    if (mica_real.cuStreamGetDevice && mica_real.cuStreamGetDevice(stream, &device) == 0)
        return mica_gpu_of_device(device);
    if (!mica_real.cuStreamGetCtx || !mica_real.cuCtxPushCurrent_v2 || !mica_real.cuCtxPopCurrent_v2
        || mica_real.cuStreamGetCtx(stream, &context) || mica_real.cuCtxPushCurrent_v2(context))
        return mica_gpu_current();
    int gpu = mica_gpu_current();
    (void)mica_real.cuCtxPopCurrent_v2(&back);
    return gpu;
}

static CUresult gate_stream(int *gpu, CUstream stream)
{
    CUresult result = begin();
    if (result)
        return result;
    *gpu = gpu_of_stream(stream);
    return may_use(gpu, MICA_CUDA_OUT_OF_MEMORY);
}

/* GPU of a pool: noted when the program made it, or a device's own. Others are imported, and nothing can be allocated from those. */
static int gpu_of_pool(CUmempool pool)
{
    int gpu = MICA_GPU_NONE;
    mica_acquire(&pools.lock);
    struct mica_entry *entry = mica_table_find(&pools, (uintptr_t)pool);
    if (entry)
        gpu = entry->gpu;
    mica_release(&pools.lock);
    if (entry)
        return gpu;
    for (CUdevice device = 0; device < mica_slice.device_count; device++) {
        CUmempool own = NULL;
        if ((mica_real.cuDeviceGetDefaultMemPool && mica_real.cuDeviceGetDefaultMemPool(&own, device) == 0 && own == pool)
            || (mica_real.cuDeviceGetMemPool && mica_real.cuDeviceGetMemPool(&own, device) == 0 && own == pool))
            return mica_gpu_of_device(device);
    }
    return mica_gpu_current();
}

static CUresult gate_pool(int *gpu, CUmempool pool)
{
    CUresult result = begin();
    if (result)
        return result;
    *gpu = gpu_of_pool(pool);
    return may_use(gpu, MICA_CUDA_OUT_OF_MEMORY);
}

CUresult cuMemPoolCreate(CUmempool *pool, const CUpoolProps *props)
{
    CUresult result = begin();
    if (result)
        return result;
    if (!pool || !props || props->location.type != MICA_LOCATION_DEVICE || props->location.id < 0
        || props->location.id >= mica_slice.device_count) /* host memory is not the GPU's; for the rest the driver has the error */
        return MICA_REAL(cuMemPoolCreate, pool, props);
    struct mica_entry entry = {.gpu = mica_gpu_of_device(props->location.id)};
    int gpu = entry.gpu;
    result = may_use(&gpu, MICA_CUDA_NOT_PERMITTED);
    if (!result)
        result = MICA_REAL(cuMemPoolCreate, pool, props);
    if (result)
        return result;
    entry.key = (uintptr_t)*pool;
    if (mica_table_put(&pools, &entry))
        return MICA_CUDA_SUCCESS;
    (void)MICA_REAL(cuMemPoolDestroy, *pool);
    return MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuMemPoolDestroy(CUmempool pool)
{
    struct mica_entry entry;
    bool known = mica_table_take(&pools, (uintptr_t)pool, &entry);
    CUresult result = MICA_REAL(cuMemPoolDestroy, pool);
    if (known && result)
        (void)mica_table_put(&pools, &entry);
    return result;
}

/* The driver gave memory for which `reserved` bytes are charged: charge what it really took, and remember it. */
static CUresult keep(int gpu, CUdeviceptr pointer, uint64_t reserved, CUcontext owner)
{
    CUdeviceptr base = 0;
    size_t size = 0;
    uint64_t bytes = reserved;
    if (mica_real.cuMemGetAddressRange_v2 && mica_real.cuMemGetAddressRange_v2(&base, &size, pointer) == 0 && base == pointer)
        bytes = size;
    if (bytes > reserved && !mica_charge(gpu, bytes - reserved)) {
        mica_ledger_release(gpu, reserved);
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    if (bytes < reserved)
        mica_ledger_release(gpu, reserved - bytes);
    struct mica_entry entry = {.key = pointer, .bytes = bytes, .owner = owner, .gpu = gpu}, old;
    if (mica_table_take(&allocations, pointer, &old)) /* freed by a way we do not see */
        mica_ledger_release(old.gpu, old.bytes);
    if (mica_table_put(&allocations, &entry))
        return MICA_CUDA_SUCCESS;
    mica_ledger_release(gpu, bytes);
    return MICA_CUDA_OUT_OF_MEMORY;
}

static CUcontext current(void)
{
    CUcontext context = NULL;
    return mica_real.cuCtxGetCurrent && mica_real.cuCtxGetCurrent(&context) == 0 ? context : NULL;
}

/* One allocating call. gate: finds the GPU; real: the call itself; undo: frees what it gave. */
#define ALLOCATE(gate, reserve, owner, pointer, real, undo) \
    do { \
        int gpu; \
        CUresult result = (gate); \
        if (result) \
            return result; \
        uint64_t wanted = (reserve); \
        if (gpu == MICA_GPU_NONE || !wanted) \
            return (real); /* no context, no bytes: the driver says so */ \
        if (!mica_charge(gpu, wanted)) \
            return MICA_CUDA_OUT_OF_MEMORY; \
        result = (real); \
        if (result) { \
            mica_ledger_release(gpu, wanted); \
            return result; \
        } \
        result = keep(gpu, *(pointer), wanted, (owner)); \
        if (result) { \
            (void)(undo); \
            *(pointer) = 0; \
        } \
        return result; \
    } while (0)

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    ALLOCATE(gate_current(&gpu), bytes, current(), pointer, MICA_REAL(cuMemAlloc_v2, pointer, bytes), MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAlloc(unsigned *pointer, unsigned bytes)
{
    ALLOCATE(gate_current(&gpu), bytes, current(), pointer, MICA_REAL(cuMemAlloc, pointer, bytes), MICA_REAL(cuMemFree, *pointer));
}

static uint64_t area(uint64_t width, uint64_t height)
{
    uint64_t bytes;
    return __builtin_mul_overflow(width, height, &bytes) ? UINT64_MAX : bytes;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element)
{
    ALLOCATE(gate_current(&gpu), area(width, height), current(), pointer, MICA_REAL(cuMemAllocPitch_v2, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAllocPitch(unsigned *pointer, unsigned *pitch, unsigned width, unsigned height, unsigned element)
{
    ALLOCATE(gate_current(&gpu), area(width, height), current(), pointer, MICA_REAL(cuMemAllocPitch, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree, *pointer));
}

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
    ALLOCATE(gate_current(&gpu), bytes, current(), pointer, MICA_REAL(cuMemAllocManaged, pointer, bytes, flags), MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    ALLOCATE(gate_stream(&gpu, stream), bytes, NULL, pointer, MICA_REAL(cuMemAllocAsync, pointer, bytes, stream), MICA_REAL(cuMemFreeAsync, *pointer, stream));
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    ALLOCATE(gate_stream(&gpu, stream), bytes, NULL, pointer, MICA_REAL(cuMemAllocAsync_ptsz, pointer, bytes, stream), MICA_REAL(cuMemFreeAsync_ptsz, *pointer, stream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    ALLOCATE(gate_pool(&gpu, pool), bytes, NULL, pointer, MICA_REAL(cuMemAllocFromPoolAsync, pointer, bytes, pool, stream), MICA_REAL(cuMemFreeAsync, *pointer, stream));
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    ALLOCATE(gate_pool(&gpu, pool), bytes, NULL, pointer, MICA_REAL(cuMemAllocFromPoolAsync_ptsz, pointer, bytes, pool, stream),
             MICA_REAL(cuMemFreeAsync_ptsz, *pointer, stream));
}

/* One freeing call. The entry goes first: once the driver has freed the address, another thread may be given it again. */
#define RELEASE(pointer, real) \
    do { \
        struct mica_entry entry; \
        bool known = mica_table_take(&allocations, (pointer), &entry); \
        CUresult result = (real); \
        if (known && result) \
            (void)mica_table_put(&allocations, &entry); \
        else if (known) \
            mica_ledger_release(entry.gpu, entry.bytes); \
        return result; \
    } while (0)

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    RELEASE(pointer, MICA_REAL(cuMemFree_v2, pointer));
}

CUresult cuMemFree(unsigned pointer)
{
    RELEASE(pointer, MICA_REAL(cuMemFree, pointer));
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream)
{
    RELEASE(pointer, MICA_REAL(cuMemFreeAsync, pointer, stream));
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream)
{
    RELEASE(pointer, MICA_REAL(cuMemFreeAsync_ptsz, pointer, stream));
}

const void *mica_memory_mark(CUcontext context)
{
    static _Atomic uintptr_t marks;
    void *mark = (void *)(atomic_fetch_add(&marks, 2) + 1); /* odd, so no context */
    mica_table_reown(&allocations, context, mark);
    return mark;
}

void mica_memory_settle(const void *mark, CUcontext context, bool gone)
{
    struct mica_entry entry;
    if (!gone)
        mica_table_reown(&allocations, mark, context);
    while (gone && mica_table_take_owned(&allocations, mark, &entry))
        mica_ledger_release(entry.gpu, entry.bytes);
}

void mica_memory_forked(void)
{
    mica_table_forked(&allocations);
    mica_table_forked(&pools);
}
