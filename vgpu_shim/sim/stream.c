/* Streams and events. A stream is a place in a hardware queue; an event is an operation in one. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stream.h"

enum { STREAM_MAGIC = 0x53545231, EVENT_MAGIC = 0x45565431 };

static struct mica_stream *all;
/* Streams 0, 1 and 2 of each device (legacy and per-thread default): one queue, so in order. */
static struct mica_stream defaults[SIM_GPUS];
/* Which event a record operation in a queue's ring stands for, so that its time is kept when the ring goes round. */
static struct mica_event *recorded[SIM_QUEUES][SIM_RING];

CUresult sim_stream(CUstream handle, struct mica_stream **out)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if ((uintptr_t)handle <= 2) {
        struct mica_stream *stream = &defaults[ctx->device];
        stream->ctx = ctx;
        stream->queue = sim_device_of(ctx)->default_queue;
        *out = stream;
        return stream->queue < 0 ? MICA_CUDA_INVALID_CONTEXT : MICA_CUDA_SUCCESS;
    }
    pthread_mutex_lock(&sim.mutex);
    struct mica_stream *at = all;
    while (at && at != handle)
        at = at->next;
    pthread_mutex_unlock(&sim.mutex);
    *out = at;
    return at ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_HANDLE;
}

static struct sim_queue *queue_of(int q)
{
    return &sim.state->queues[sim.slot][q];
}

/* Nanoseconds of kernels in the queue before sequence `until`: the wait cannot be shorter. Card locked. */
static uint64_t work_before(const struct sim_queue *queue, uint64_t until)
{
    uint64_t sum = 0;
    for (uint64_t at = queue->head; at < until; at++)
        if (queue->ops[at % SIM_RING].kind == SIM_OP_KERNEL)
            sum += queue->ops[at % SIM_RING].value;
    return sum;
}

static void doze(uint64_t ns)
{
    if (ns < 20000)
        ns = 20000;
    if (ns > 50000000)
        ns = 50000000; /* look again: the context or the card may be gone */
    struct timespec ts = {.tv_nsec = (long)ns};
    nanosleep(&ts, NULL);
}

void sim_wait(struct sim_device *device, int q, uint64_t until)
{
    for (;;) {
        sim_state_lock(device->gpu);
        sim_sched_advance(sim.state, device->gpu, sim.config.slice_ns);
        bool done = queue_of(q)->head >= until;
        uint64_t left = done ? 0 : work_before(queue_of(q), until);
        sim_state_unlock(device->gpu);
        if (done)
            return;
        doze(left);
    }
}

CUresult sim_drain(struct sim_device *device)
{
    for (int q = 0; q < SIM_QUEUES; q++)
        if (queue_of(q)->gpu == device->gpu)
            sim_wait(device, q, queue_of(q)->tail);
    return MICA_CUDA_SUCCESS;
}

void sim_push(struct mica_stream *stream, struct sim_op op, struct mica_event *event)
{
    struct sim_device *device = sim_device_of(stream->ctx);
    struct sim_queue *queue = queue_of(stream->queue);
    for (;;) {
        sim_state_lock(device->gpu);
        sim_sched_advance(sim.state, device->gpu, sim.config.slice_ns);
        if (queue->tail - queue->head < SIM_RING)
            break;
        uint64_t left = work_before(queue, queue->head + 1);
        sim_state_unlock(device->gpu);
        doze(left);
    }
    struct mica_event **place = &recorded[stream->queue][queue->tail % SIM_RING];
    if (*place && (*place)->queue == stream->queue && (*place)->sequence + SIM_RING == queue->tail && !(*place)->stamp)
        (*place)->stamp = queue->ops[queue->tail % SIM_RING].done_at;
    *place = event;
    if (event) { /* recording again replaces the earlier record */
        event->queue = stream->queue;
        event->sequence = queue->tail;
        event->stamp = 0;
    }
    stream->last = sim_sched_push(sim.state, device->gpu, sim.slot, stream->queue, op) + 1;
    sim_state_unlock(device->gpu);
}

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    struct mica_ctx *ctx;
    (void)priority;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!out || flags > 1)
        return MICA_CUDA_INVALID_VALUE;
    struct mica_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return MICA_CUDA_OUT_OF_MEMORY;
    pthread_mutex_lock(&sim.mutex);
    int gpu = sim_device_of(ctx)->gpu, best = sim_device_of(ctx)->default_queue, fewest = 1 << 30;
    for (int q = 0; q < SIM_QUEUES; q++) {
        int users = q == best;
        for (const struct mica_stream *at = all; at; at = at->next)
            users += at->queue == q;
        bool usable = queue_of(q)->gpu == gpu || queue_of(q)->gpu < 0;
        if (usable && users < fewest) {
            fewest = users;
            stream->queue = q;
        }
    }
    queue_of(stream->queue)->gpu = gpu;
    stream->magic = STREAM_MAGIC;
    stream->ctx = ctx;
    stream->next = all;
    all = *out = stream;
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
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

void sim_streams_drop(struct mica_ctx *ctx)
{
    for (struct mica_stream *at = all, *next; at; at = next) {
        next = at->next;
        if (at->ctx == ctx)
            unlink_stream(at);
    }
}

CUresult cuStreamQuery(CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    struct sim_device *device = sim_device_of(stream->ctx);
    sim_advance(device);
    return queue_of(stream->queue)->head >= stream->last ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_READY;
}

CUresult cuStreamQuery_ptsz(CUstream stream)
{
    return cuStreamQuery(stream);
}

void sim_advance(struct sim_device *device)
{
    sim_state_lock(device->gpu);
    sim_sched_advance(sim.state, device->gpu, sim.config.slice_ns);
    sim_state_unlock(device->gpu);
}

CUresult cuStreamSynchronize(CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && (uintptr_t)handle <= 1) /* the legacy default stream waits for the others */
        return sim_drain(sim_device_of(stream->ctx));
    if (!result)
        sim_wait(sim_device_of(stream->ctx), stream->queue, stream->last);
    return result;
}

CUresult cuStreamSynchronize_ptsz(CUstream handle)
{
    return cuStreamSynchronize(handle ? handle : MICA_STREAM_PER_THREAD);
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

CUresult cuStreamIsCapturing(CUstream handle, int *status)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !status)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *status = 0; /* capture is not modelled */
    return result;
}

CUresult cuStreamIsCapturing_ptsz(CUstream handle, int *status)
{
    return cuStreamIsCapturing(handle, status);
}

/* Events. */

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!event || flags > 7)
        return MICA_CUDA_INVALID_VALUE;
    if (!(*event = calloc(1, sizeof **event)))
        return MICA_CUDA_OUT_OF_MEMORY;
    **event = (struct mica_event){.magic = EVENT_MAGIC, .flags = flags, .ctx = ctx, .queue = -1};
    return MICA_CUDA_SUCCESS;
}

static CUresult check_event(const struct mica_event *event)
{
    CUresult result = sim_check();
    if (!result && (!event || event->magic != EVENT_MAGIC))
        result = MICA_CUDA_INVALID_HANDLE;
    return result;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    CUresult result = check_event(event);
    if (result)
        return result;
    struct sim_device *device = sim_device_of(event->ctx);
    sim_state_lock(device->gpu);
    for (int i = 0; event->queue >= 0 && i < SIM_RING; i++)
        if (recorded[event->queue][i] == event)
            recorded[event->queue][i] = NULL;
    for (int q = 0; q < SIM_QUEUES; q++) /* an earlier record in another queue */
        for (int i = 0; q != event->queue && i < SIM_RING; i++)
            if (recorded[q][i] == event)
                recorded[q][i] = NULL;
    sim_state_unlock(device->gpu);
    event->magic = 0;
    free(event);
    return MICA_CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event)
{
    return cuEventDestroy_v2(event);
}

CUresult cuEventRecord(CUevent event, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = check_event(event);
    if (!result)
        result = sim_stream(handle, &stream);
    if (!result && stream->ctx->device != event->ctx->device)
        result = MICA_CUDA_INVALID_HANDLE;
    if (!result)
        sim_push(stream, (struct sim_op){.kind = SIM_OP_RECORD}, event);
    return result;
}

CUresult cuEventRecord_ptsz(CUevent event, CUstream stream)
{
    return cuEventRecord(event, stream);
}

/* True when the event has happened (or was never recorded); remembers its time. */
static bool happened(struct mica_event *event)
{
    if (event->queue < 0 || event->stamp)
        return true;
    struct sim_device *device = sim_device_of(event->ctx);
    sim_state_lock(device->gpu);
    sim_sched_advance(sim.state, device->gpu, sim.config.slice_ns);
    struct sim_queue *queue = queue_of(event->queue);
    if (queue->head > event->sequence && !event->stamp)
        event->stamp = queue->ops[event->sequence % SIM_RING].done_at;
    sim_state_unlock(device->gpu);
    return event->stamp != 0;
}

CUresult cuEventQuery(CUevent event)
{
    CUresult result = check_event(event);
    return result ? result : happened(event) ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event)
{
    CUresult result = check_event(event);
    if (!result && !happened(event))
        sim_wait(sim_device_of(event->ctx), event->queue, event->sequence + 1);
    return result;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult result = check_event(start);
    if (!result)
        result = check_event(end);
    if (result)
        return result;
    if (!milliseconds)
        return MICA_CUDA_INVALID_VALUE;
    if (((start->flags | end->flags) & MICA_EVENT_DISABLE_TIMING) || start->queue < 0 || end->queue < 0)
        return MICA_CUDA_INVALID_HANDLE;
    if (!happened(start) || !happened(end))
        return MICA_CUDA_NOT_READY;
    int64_t half_us = ((int64_t)end->stamp - (int64_t)start->stamp) / 500; /* events resolve half a microsecond */
    *milliseconds = (float)((double)half_us * 0.0005);
    return MICA_CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags)
{
    struct mica_stream *stream;
    (void)flags;
    CUresult result = check_event(event);
    if (!result)
        result = sim_stream(handle, &stream);
    if (result || event->queue < 0 || happened(event))
        return result;
    if (stream->ctx->device != event->ctx->device) /* another card's time: wait on the host */
        return cuEventSynchronize(event);
    sim_push(stream, (struct sim_op){.kind = SIM_OP_WAIT, .other = (uint32_t)event->queue, .value = event->sequence}, NULL);
    return MICA_CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned flags)
{
    return cuStreamWaitEvent(stream, event, flags);
}
