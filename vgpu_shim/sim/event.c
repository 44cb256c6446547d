/* Events: operations in a queue whose time is kept, to half a microsecond. */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

enum { EVENT_MAGIC = 0x45565431, RESOLUTION_NS = 500 };

/* Which event a record operation in a queue's ring stands for, so that its time is kept when the ring goes round. */
static struct mica_event *recorded[SIM_QUEUES][SIM_RING];

void sim_event_moves(int q, uint64_t sequence, struct mica_event *event)
{
    struct mica_event **place = &recorded[q][sequence % SIM_RING];
    if (*place && (*place)->queue == q && (*place)->sequence + SIM_RING == sequence && !(*place)->stamp)
        (*place)->stamp = sim_queue_of(q)->ops[sequence % SIM_RING].done_at;
    *place = event;
    if (event) { /* recording again replaces the earlier record */
        event->queue = q;
        event->sequence = sequence;
        event->stamp = 0;
    }
}

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
    struct sim_device *device = &sim.devices[event->ctx->device];
    sim_state_lock(device->gpu);
    for (int q = 0; q < SIM_QUEUES; q++)
        for (int i = 0; event->queue >= 0 && i < SIM_RING; i++)
            if (recorded[q][i] == event)
                recorded[q][i] = NULL;
    sim_state_unlock(device->gpu);
    event->magic = 0;
    free(event->tips);
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
    if (!result && stream->capture)
        return sim_capture_event(stream, event);
    if (!result && stream->legacy)
        result = sim_capture_implicit(stream->ctx, true);
    if (result)
        return result;
    event->capture = NULL;
    sim_push(stream, (struct sim_op){.kind = SIM_OP_RECORD}, event);
    return MICA_CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags)
{
    return flags > 1 ? MICA_CUDA_INVALID_VALUE : cuEventRecord(event, stream); /* 1: external to a capture; here all are */
}

/* True when the event has happened (or was never recorded) and the host can see it; remembers its time. */
static bool happened(struct mica_event *event)
{
    if (event->queue < 0)
        return true;
    struct sim_device *device = sim_device_of(event->ctx);
    sim_state_lock(device->gpu);
    if (!event->stamp)
        sim_sched_advance(sim.state, device->gpu, &sim.config.timing);
    struct sim_queue *queue = sim_queue_of(event->queue);
    if (queue->head > event->sequence && !event->stamp)
        event->stamp = queue->ops[event->sequence % SIM_RING].done_at;
    sim_state_unlock(device->gpu);
    return event->stamp && event->stamp + sim.config.completion_ns <= sim_clock_ns();
}

/* Asking for an event breaks a capture that it is recorded in, and in the strict modes any other. */
static CUresult askable(CUevent event)
{
    CUresult result = check_event(event);
    if (!result && event->capture) {
        (void)sim_capture_break_event(event);
        return MICA_CUDA_CAPTURED_EVENT;
    }
    return result ? result : sim_unsafe_call();
}

CUresult cuEventQuery(CUevent event)
{
    CUresult result = askable(event);
    if (result)
        return result;
    sim_clock_spend(sim.config.call_ns);
    return happened(event) ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event)
{
    CUresult result = askable(event);
    if (result)
        return result;
    sim_clock_spend(sim.config.call_ns);
    if (!happened(event))
        sim_wait(sim_device_of(event->ctx), event->queue, event->sequence + 1);
    sim_pools_settle(sim_device_of(event->ctx));
    return MICA_CUDA_SUCCESS;
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
    int64_t ticks = (int64_t)(end->stamp / RESOLUTION_NS) - (int64_t)(start->stamp / RESOLUTION_NS);
    *milliseconds = (float)((double)ticks * RESOLUTION_NS * 1e-6);
    return MICA_CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end)
{
    return cuEventElapsedTime(milliseconds, start, end);
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags)
{
    struct mica_stream *stream;
    CUresult result = check_event(event);
    if (!result)
        result = sim_stream(handle, &stream);
    if (!result && flags > 1)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result && (event->capture || stream->capture))
        return sim_capture_wait(stream, event);
    if (!result && stream->legacy)
        result = sim_capture_implicit(stream->ctx, true);
    if (result || event->queue < 0)
        return result;
    sim_clock_spend(sim.config.call_ns);
    if (happened(event))
        return MICA_CUDA_SUCCESS;
    if (stream->ctx->device != event->ctx->device) { /* another card's time: wait on the host */
        sim_wait(sim_device_of(event->ctx), event->queue, event->sequence + 1);
        return MICA_CUDA_SUCCESS;
    }
    sim_push(stream, (struct sim_op){.kind = SIM_OP_WAIT, .other = (uint32_t)event->queue, .value = event->sequence}, NULL);
    return MICA_CUDA_SUCCESS;
}

CUresult cuEventRecord_ptsz(CUevent event, CUstream stream)
{
    return cuEventRecord(event, stream ? stream : MICA_STREAM_PER_THREAD);
}

CUresult cuEventRecordWithFlags_ptsz(CUevent event, CUstream stream, unsigned flags)
{
    return cuEventRecordWithFlags(event, stream ? stream : MICA_STREAM_PER_THREAD, flags);
}

CUresult cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned flags)
{
    return cuStreamWaitEvent(stream ? stream : MICA_STREAM_PER_THREAD, event, flags);
}
