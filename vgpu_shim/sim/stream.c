/* Streams: places in hardware queues, in order. */
#include "stream.h"

#include <stdlib.h>

enum { STREAM_MAGIC = 0x53545231 };

static struct mica_stream *all;
static struct mica_stream legacy[SIM_GPUS];
static __thread struct mica_stream *per_thread[SIM_GPUS];

struct mica_stream *sim_streams(void)
{
    return all;
}

const struct mica_stream *sim_stream_legacy(CUdevice device)
{
    return &legacy[device];
}

struct sim_queue *sim_queue_of(int q)
{
    return &sim.state->queues[sim.slot][q];
}

/* A queue for a new stream: the one with the fewest streams. With sim.mutex held. */
static int least_used(struct sim_device *device)
{
    int found = device->default_queue, fewest = 1 << 30;
    sim_state_lock(device->gpu);
    for (int q = 0; q < SIM_QUEUES; q++) {
        int users = q == device->default_queue;
        for (const struct mica_stream *at = all; at; at = at->next)
            users += at->queue == q;
        bool usable = sim_queue_of(q)->gpu == device->gpu || sim_queue_of(q)->gpu < 0;
        if (usable && users < fewest) {
            fewest = users;
            found = q;
        }
    }
    sim_queue_of(found)->gpu = device->gpu;
    sim_state_unlock(device->gpu);
    return found;
}

static struct mica_stream *make(struct mica_ctx *ctx, bool non_blocking)
{
    struct mica_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    pthread_mutex_lock(&sim.mutex);
    *stream = (struct mica_stream){.magic = STREAM_MAGIC, .ctx = ctx, .non_blocking = non_blocking, .queue = least_used(sim_device_of(ctx)), .next = all};
    all = stream;
    pthread_mutex_unlock(&sim.mutex);
    return stream;
}

static CUresult default_stream(struct mica_ctx *ctx, bool of_thread, struct mica_stream **out)
{
    struct mica_stream *stream = &legacy[ctx->device];
    if (sim_device_of(ctx)->default_queue < 0)
        return MICA_CUDA_INVALID_CONTEXT;
    if (of_thread) {
        stream = per_thread[ctx->device];
        if (!stream && !(stream = per_thread[ctx->device] = make(ctx, false)))
            return MICA_CUDA_OUT_OF_MEMORY;
        stream->ctx = ctx;
    } else {
        stream->legacy = true;
        stream->ctx = ctx;
        stream->queue = sim_device_of(ctx)->default_queue;
    }
    *out = stream;
    return MICA_CUDA_SUCCESS;
}

CUresult sim_stream(CUstream handle, struct mica_stream **out)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if ((uintptr_t)handle <= 2)
        return default_stream(ctx, handle == MICA_STREAM_PER_THREAD, out);
    pthread_mutex_lock(&sim.mutex);
    struct mica_stream *at = all;
    while (at && at != handle)
        at = at->next;
    pthread_mutex_unlock(&sim.mutex);
    *out = at;
    return at ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_HANDLE;
}

/* The API. */

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    struct mica_ctx *ctx;
    (void)priority; /* time slices are the same for all */
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!out || flags > 1)
        return MICA_CUDA_INVALID_VALUE;
    *out = make(ctx, flags == 1);
    return *out ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    return cuStreamCreateWithPriority(stream, flags, 0);
}

static void unlink_stream(struct mica_stream *stream)
{
    pthread_mutex_lock(&sim.mutex);
    for (struct mica_stream **at = &all; *at; at = &(*at)->next)
        if (*at == stream) {
            *at = stream->next;
            break;
        }
    pthread_mutex_unlock(&sim.mutex);
    (void)sim_capture_break(stream);
    free(stream->tips);
    free(stream);
}

CUresult cuStreamDestroy_v2(CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    if ((uintptr_t)handle <= 2)
        return MICA_CUDA_INVALID_HANDLE;
    unlink_stream(stream); /* its operations stay in the hardware queue and are still run */
    return MICA_CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream)
{
    return cuStreamDestroy_v2(stream);
}

static struct mica_stream *stream_of(const struct mica_ctx *ctx)
{
    pthread_mutex_lock(&sim.mutex);
    struct mica_stream *at = all;
    while (at && at->ctx != ctx)
        at = at->next;
    pthread_mutex_unlock(&sim.mutex);
    return at;
}

void sim_streams_drop(struct mica_ctx *ctx)
{
    for (struct mica_stream *at; (at = stream_of(ctx));) {
        if (per_thread[ctx->device] == at)
            per_thread[ctx->device] = NULL;
        unlink_stream(at);
    }
}

/* The host must not ask or wait while the stream is captured, nor unsafely beside a capture. */
static CUresult askable(CUstream handle, struct mica_stream **stream)
{
    CUresult result = sim_stream(handle, stream);
    if (!result && sim_capture_break(*stream))
        result = MICA_CUDA_CAPTURE_UNSUPPORTED;
    if (!result && (*stream)->legacy)
        result = sim_capture_implicit((*stream)->ctx, true);
    return result ? result : sim_unsafe_call();
}

CUresult cuStreamQuery(CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = askable(handle, &stream);
    if (result)
        return result;
    sim_clock_spend(sim.config.call_ns);
    return sim_done(sim_device_of(stream->ctx), stream->queue, stream->last) ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_READY;
}

CUresult cuStreamSynchronize(CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = askable(handle, &stream);
    if (result)
        return result;
    sim_clock_spend(sim.config.call_ns);
    if (stream->legacy) /* the legacy default stream waits for the others */
        return sim_drain(sim_device_of(stream->ctx));
    sim_wait(sim_device_of(stream->ctx), stream->queue, stream->last);
    sim_pools_settle(sim_device_of(stream->ctx));
    return MICA_CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext *context)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !context)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *context = stream->ctx;
    return result;
}

CUresult cuStreamGetDevice(CUstream handle, CUdevice *device)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !device)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *device = stream->ctx->device;
    return result;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned *flags)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !flags)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *flags = stream->non_blocking;
    return result;
}

#define PER_THREAD(stream) ((stream) ? (stream) : MICA_STREAM_PER_THREAD)

CUresult cuStreamQuery_ptsz(CUstream stream)
{
    return cuStreamQuery(PER_THREAD(stream));
}

CUresult cuStreamSynchronize_ptsz(CUstream stream)
{
    return cuStreamSynchronize(PER_THREAD(stream));
}

CUresult cuStreamGetCtx_ptsz(CUstream stream, CUcontext *context)
{
    return cuStreamGetCtx(PER_THREAD(stream), context);
}

CUresult cuStreamGetDevice_ptsz(CUstream stream, CUdevice *device)
{
    return cuStreamGetDevice(PER_THREAD(stream), device);
}

CUresult cuStreamGetFlags_ptsz(CUstream stream, unsigned *flags)
{
    return cuStreamGetFlags(PER_THREAD(stream), flags);
}
