/* Copies and fills check addresses and sizes; device memory has no contents, so what is read from it is zeros. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static CUresult check(CUdeviceptr a, CUdeviceptr b, size_t bytes)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result || !bytes)
        return result;
    if ((a && !sim_memory_covers(a, bytes)) || (b && !sim_memory_covers(b, bytes)) || (!a && !b))
        return MICA_CUDA_INVALID_VALUE;
    return MICA_CUDA_SUCCESS;
}

/* A copy without a stream waits for the default stream, as on a real card. */
static CUresult check_sync(CUdeviceptr a, CUdeviceptr b, size_t bytes)
{
    CUresult result = check(a, b, bytes);
    return result ? result : cuStreamSynchronize(NULL);
}

static CUresult check_stream(CUdeviceptr a, CUdeviceptr b, size_t bytes, CUstream stream)
{
    struct mica_stream *found;
    CUresult result = sim_stream(stream, &found);
    return result ? result : check(a, b, bytes);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t bytes)
{
    return source || !bytes ? check_sync(target, 0, bytes) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t bytes)
{
    CUresult result = target || !bytes ? check_sync(source, 0, bytes) : MICA_CUDA_INVALID_VALUE;
    if (!result && bytes)
        memset(target, 0, bytes);
    return result;
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes)
{
    return check_sync(target, source, bytes);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t bytes, CUstream stream)
{
    return source || !bytes ? check_stream(target, 0, bytes, stream) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    CUresult result = target || !bytes ? check_stream(source, 0, bytes, stream) : MICA_CUDA_INVALID_VALUE;
    if (!result && bytes)
        memset(target, 0, bytes);
    return result;
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    return check_stream(target, source, bytes, stream);
}

CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count)
{
    (void)value;
    return check(target, 0, count);
}

CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count)
{
    (void)value;
    return count > SIZE_MAX / 4 ? MICA_CUDA_INVALID_VALUE : check(target, 0, count * 4);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream)
{
    (void)value;
    return check_stream(target, 0, count, stream);
}

CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    struct mica_ctx *ctx;
    (void)flags;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!pointer || !bytes)
        return MICA_CUDA_INVALID_VALUE;
    *pointer = malloc(bytes);
    return *pointer ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuMemAllocHost_v2(void **pointer, size_t bytes)
{
    return cuMemHostAlloc(pointer, bytes, 0);
}

CUresult cuMemFreeHost(void *pointer)
{
    CUresult result = pointer ? sim_check() : MICA_CUDA_INVALID_VALUE;
    if (!result)
        free(pointer);
    return result;
}
