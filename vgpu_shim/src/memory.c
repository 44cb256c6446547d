/* Allocations: reserve before calling the driver, so that no interleaving of threads and processes passes the cap; correct to what the
 * driver really took; give back when it is freed. */
#include "memory.h"

static struct mica_table allocations;

bool mica_charge(int gpu, uint64_t bytes)
{
    uint64_t limit = atomic_load_explicit(&mica_slice.memory[gpu], memory_order_relaxed);
    bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed);
    if (!enforce && (bytes > limit || mica_ledger_used(gpu) > limit - bytes))
        MICA_LOG_ONCE("GPU %d: an allocation of %llu bytes passes the limit of %llu (mode=report: allowed)", gpu, (unsigned long long)bytes,
                      (unsigned long long)limit);
    return mica_ledger_reserve(gpu, bytes, limit, enforce);
}

CUresult mica_memory_gate(int *gpu)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    mica_slice_tick(mica_now());
    *gpu = mica_gpu_current();
    return *gpu == MICA_GPU_FOREIGN ? MICA_CUDA_OUT_OF_MEMORY : MICA_CUDA_SUCCESS;
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
    struct mica_entry entry = {.key = pointer, .bytes = bytes, .owner = owner, .gpu = gpu};
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

/* One allocating call. real: the call itself; undo: frees what it gave. */
#define ALLOCATE(reserve, owner, pointer, real, undo) \
    do { \
        int gpu; \
        CUresult result = mica_memory_gate(&gpu); \
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
    ALLOCATE(bytes, current(), pointer, MICA_REAL(cuMemAlloc_v2, pointer, bytes), MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAlloc(unsigned *pointer, unsigned bytes)
{
    ALLOCATE(bytes, current(), pointer, MICA_REAL(cuMemAlloc, pointer, bytes), MICA_REAL(cuMemFree, *pointer));
}

static uint64_t area(uint64_t width, uint64_t height)
{
    uint64_t bytes;
    return __builtin_mul_overflow(width, height, &bytes) ? UINT64_MAX : bytes;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element)
{
    ALLOCATE(area(width, height), current(), pointer, MICA_REAL(cuMemAllocPitch_v2, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAllocPitch(unsigned *pointer, unsigned *pitch, unsigned width, unsigned height, unsigned element)
{
    ALLOCATE(area(width, height), current(), pointer, MICA_REAL(cuMemAllocPitch, pointer, pitch, width, height, element),
             MICA_REAL(cuMemFree, *pointer));
}

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
    ALLOCATE(bytes, current(), pointer, MICA_REAL(cuMemAllocManaged, pointer, bytes, flags), MICA_REAL(cuMemFree_v2, *pointer));
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    ALLOCATE(bytes, NULL, pointer, MICA_REAL(cuMemAllocAsync, pointer, bytes, stream), MICA_REAL(cuMemFreeAsync, *pointer, stream));
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    ALLOCATE(bytes, NULL, pointer, MICA_REAL(cuMemAllocAsync_ptsz, pointer, bytes, stream), MICA_REAL(cuMemFreeAsync_ptsz, *pointer, stream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    ALLOCATE(bytes, NULL, pointer, MICA_REAL(cuMemAllocFromPoolAsync, pointer, bytes, pool, stream), MICA_REAL(cuMemFreeAsync, *pointer, stream));
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    ALLOCATE(bytes, NULL, pointer, MICA_REAL(cuMemAllocFromPoolAsync_ptsz, pointer, bytes, pool, stream),
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

void mica_memory_forget(CUcontext context)
{
    struct mica_entry entry;
    while (context && mica_table_take_owned(&allocations, context, &entry))
        mica_ledger_release(entry.gpu, entry.bytes);
}
