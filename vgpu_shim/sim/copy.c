/* Copies and fills check addresses and sizes and take time; device memory has no contents, so what is read from it is zeros. */
#include "stream.h"

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

/* a, b: what of the copy is on the card, 0 for the host. Between card and host a copy engine works, on the card its multiprocessors. */
static CUresult copy_on(CUdeviceptr a, CUdeviceptr b, size_t bytes, bool fill, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result)
        result = check(a, b, bytes);
    if (result)
        return result;
    bool on_card = fill || (a && b);
    uint64_t speed = on_card ? sim.config.fill_gbps : sim.config.copy_gbps;
    const struct sim_task task = {.kind = on_card ? SIM_TASK_FILL : SIM_TASK_COPY, .ns = speed ? bytes / speed : 0};
    return sim_submit(stream, &task);
}

/* A copy without a stream is done when the call returns, and so is all before it in the default stream. */
static CUresult copy(CUdeviceptr a, CUdeviceptr b, size_t bytes)
{
    CUresult result = copy_on(a, b, bytes, false, NULL);
    return result ? result : cuStreamSynchronize(NULL);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t bytes)
{
    return source || !bytes ? copy(target, 0, bytes) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t bytes)
{
    CUresult result = target || !bytes ? copy(source, 0, bytes) : MICA_CUDA_INVALID_VALUE;
    if (!result && bytes)
        memset(target, 0, bytes);
    return result;
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes)
{
    return copy(target, source, bytes);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t bytes, CUstream stream)
{
    return source || !bytes ? copy_on(target, 0, bytes, false, stream) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    CUresult result = target || !bytes ? copy_on(source, 0, bytes, false, stream) : MICA_CUDA_INVALID_VALUE;
    if (!result && bytes)
        memset(target, 0, bytes);
    return result;
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    return copy_on(target, source, bytes, false, stream);
}

CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count)
{
    (void)value;
    return copy_on(target, 0, count, true, NULL);
}

CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count)
{
    (void)value;
    return count > SIZE_MAX / 4 ? MICA_CUDA_INVALID_VALUE : copy_on(target, 0, count * 4, true, NULL);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream)
{
    (void)value;
    return copy_on(target, 0, count, true, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream)
{
    (void)value;
    return count > SIZE_MAX / 4 ? MICA_CUDA_INVALID_VALUE : copy_on(target, 0, count * 4, true, stream);
}

#define PER_THREAD(stream) ((stream) ? (stream) : MICA_STREAM_PER_THREAD)

CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr target, const void *source, size_t bytes, CUstream stream)
{
    return cuMemcpyHtoDAsync_v2(target, source, bytes, PER_THREAD(stream));
}

CUresult cuMemcpyDtoHAsync_v2_ptsz(void *target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    return cuMemcpyDtoHAsync_v2(target, source, bytes, PER_THREAD(stream));
}

CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream)
{
    return cuMemcpyDtoDAsync_v2(target, source, bytes, PER_THREAD(stream));
}

CUresult cuMemsetD8Async_ptsz(CUdeviceptr target, unsigned char value, size_t count, CUstream stream)
{
    return cuMemsetD8Async(target, value, count, PER_THREAD(stream));
}

CUresult cuMemsetD32Async_ptsz(CUdeviceptr target, unsigned value, size_t count, CUstream stream)
{
    return cuMemsetD32Async(target, value, count, PER_THREAD(stream));
}

CUresult cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned flags)
{
    struct mica_ctx *ctx;
    (void)flags;
    CUresult result = sim_current(&ctx);
    return result ? result : pointer && bytes ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemHostUnregister(void *pointer)
{
    CUresult result = sim_check();
    return result ? result : pointer ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    struct mica_ctx *ctx;
    (void)flags;
    CUresult result = sim_current(&ctx);
    if (!result)
        result = sim_unsafe_call();
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
