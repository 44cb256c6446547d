/* cuInit and what a program is told about its devices: a slice looks like a smaller card. */
#include "slice.h"

CUresult cuInit(unsigned flags)
{
    if (!mica_driver())
        return mica_driver_absent();
    CUresult result = mica_slice_prepare(); /* before the driver starts: without limits there is no GPU */
    if (!result)
        result = MICA_REAL(cuInit, flags);
    return result ? result : mica_slice_start();
}

static size_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static unsigned clamp32(size_t bytes)
{
    return bytes > UINT32_MAX ? UINT32_MAX : (unsigned)bytes;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult result = MICA_REAL(cuDeviceTotalMem_v2, bytes, device);
    if (!result)
        result = mica_slice_check();
    if (result)
        return result;
    mica_slice_look();
    int gpu = mica_gpu_of_device(device);
    if (atomic_load(&mica_slice.enforce))
        *bytes = gpu < 0 ? 0 : smaller(*bytes, atomic_load(&mica_slice.memory[gpu]));
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device)
{
    size_t wide = 0;
    CUresult result = bytes ? cuDeviceTotalMem_v2(&wide, device) : MICA_CUDA_INVALID_VALUE;
    if (!result)
        *bytes = clamp32(wide);
    return result;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    CUresult result = MICA_REAL(cuMemGetInfo_v2, free_bytes, total);
    if (!result)
        result = mica_slice_check();
    if (result)
        return result;
    mica_slice_look();
    int gpu = mica_gpu_current();
    if (!atomic_load(&mica_slice.enforce))
        return MICA_CUDA_SUCCESS;
    uint64_t limit = gpu < 0 ? 0 : atomic_load(&mica_slice.memory[gpu]), used = gpu < 0 ? 0 : mica_ledger_used(gpu);
    *total = smaller(*total, limit);
    const uint64_t left = *total > used ? *total - used : 0;
    /* what does not fit on the card goes to the host */
    *free_bytes = MICA_UNLIKELY(atomic_load_explicit(&mica_slice.oversubscribe, memory_order_relaxed)) ? left : smaller(*free_bytes, left);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemGetInfo(unsigned *free_bytes, unsigned *total)
{
    size_t wide_free = 0, wide_total = 0;
    CUresult result = free_bytes && total ? cuMemGetInfo_v2(&wide_free, &wide_total) : MICA_CUDA_INVALID_VALUE;
    if (!result) {
        *free_bytes = clamp32(wide_free);
        *total = clamp32(wide_total);
    }
    return result;
}
