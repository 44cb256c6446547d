/* How work enters the hardware queues and how the host waits for it. */
#include "stream.h"

#include <time.h>

/* Waiting. */

/* Nanoseconds of kernels in the queue before sequence `until`: the wait cannot be shorter. Card locked. */
static uint64_t work_before(const struct sim_queue *queue, uint64_t until)
{
    uint64_t sum = 0;
    for (uint64_t at = queue->head; at < until; at++)
        if (queue->ops[at % SIM_RING].kind == SIM_OP_KERNEL || queue->ops[at % SIM_RING].kind == SIM_OP_COPY)
            sum += queue->ops[at % SIM_RING].value;
    return sum;
}

void sim_doze(uint64_t ns)
{
    const uint64_t shortest = sim_clock_virtual() ? 1000 : 20000;
    ns = ns < shortest ? shortest : ns > 50000000 ? 50000000 : ns; /* look again: the context or the card may be gone */
    struct timespec ts = {.tv_nsec = (long)ns};
    nanosleep(&ts, NULL);
}

/* Card locked. Nanoseconds until the host sees that the first `until` operations are done, at least; 0 when it does. */
static uint64_t left(int q, uint64_t until)
{
    const struct sim_queue *queue = sim_queue_of(q);
    if (queue->head >= until) {
        bool kept = until && queue->tail - until < SIM_RING; /* else it was long ago */
        uint64_t seen = kept ? queue->ops[(until - 1) % SIM_RING].done_at + sim.config.completion_ns : 0;
        uint64_t now = sim_clock_ns();
        return seen > now ? seen - now : 0;
    }
    uint64_t work = work_before(queue, until) + sim.config.completion_ns;
    return work ? work : 1000;
}

bool sim_done(struct sim_device *device, int q, uint64_t until)
{
    sim_state_lock(device->gpu);
    sim_sched_advance(sim.state, device->gpu, &sim.config.timing);
    bool done = left(q, until) == 0;
    sim_state_unlock(device->gpu);
    return done;
}

void sim_wait(struct sim_device *device, int q, uint64_t until)
{
    for (;;) {
        sim_state_lock(device->gpu);
        sim_sched_advance(sim.state, device->gpu, &sim.config.timing);
        uint64_t ns = left(q, until);
        sim_state_unlock(device->gpu);
        if (!ns)
            return;
        sim_doze(ns);
    }
}

CUresult sim_drain(struct sim_device *device)
{
    for (int q = 0; q < SIM_QUEUES; q++) {
        sim_state_lock(device->gpu);
        uint64_t until = sim_queue_of(q)->gpu == device->gpu ? sim_queue_of(q)->tail : 0;
        sim_state_unlock(device->gpu);
        if (until)
            sim_wait(device, q, until);
    }
    sim_pools_settle(device);
    return MICA_CUDA_SUCCESS;
}

void sim_advance(struct sim_device *device)
{
    sim_state_lock(device->gpu);
    sim_sched_advance(sim.state, device->gpu, &sim.config.timing);
    sim_state_unlock(device->gpu);
}

/* Work. */

static void append(struct mica_stream *stream, struct sim_op op, struct mica_event *event)
{
    struct sim_device *device = sim_device_of(stream->ctx);
    struct sim_queue *queue = sim_queue_of(stream->queue);
    for (;;) {
        sim_state_lock(device->gpu);
        sim_sched_advance(sim.state, device->gpu, &sim.config.timing);
        if (queue->tail - queue->head < SIM_RING)
            break;
        uint64_t ns = work_before(queue, queue->head + 1);
        sim_state_unlock(device->gpu);
        sim_doze(ns);
    }
    sim_event_moves(stream->queue, queue->tail, event);
    stream->last = sim_sched_push(sim.state, device->gpu, sim.slot, stream->queue, op) + 1;
    sim_state_unlock(device->gpu);
}

/* last: of the other stream in that queue */
static void await_queue(struct mica_stream *stream, int q, uint64_t last)
{
    const struct sim_device *device = sim_device_of(stream->ctx);
    if (!last || q == stream->queue)
        return;
    sim_state_lock(device->gpu);
    bool over = sim_queue_of(q)->head >= last;
    sim_state_unlock(device->gpu);
    if (!over)
        append(stream, (struct sim_op){.kind = SIM_OP_WAIT, .other = (uint32_t)q, .value = last - 1}, NULL);
}

/* The legacy default stream waits for all blocking streams, and they for it. */
static void join_legacy(struct mica_stream *stream)
{
    const struct mica_stream *old = sim_stream_legacy(stream->ctx->device);
    if (stream->non_blocking)
        return;
    if (!stream->legacy) {
        if (old->legacy && old->last != stream->awaited)
            await_queue(stream, old->queue, old->last);
        stream->awaited = old->last;
        return;
    }
    pthread_mutex_lock(&sim.mutex);
    struct { int queue; uint64_t last; } others[SIM_QUEUES]; /* at most one wait per queue: queues are in order */
    int count = 0;
    for (const struct mica_stream *at = sim_streams(); at; at = at->next) {
        if (at->non_blocking || at->ctx->device != stream->ctx->device)
            continue;
        int place = 0;
        while (place < count && others[place].queue != at->queue)
            place++;
        if (place == count && count < SIM_QUEUES)
            count++, others[place].queue = at->queue, others[place].last = at->last;
        else if (place < count && at->last > others[place].last)
            others[place].last = at->last;
    }
    pthread_mutex_unlock(&sim.mutex);
    for (int i = 0; i < count; i++)
        await_queue(stream, others[i].queue, others[i].last);
}

void sim_push(struct mica_stream *stream, struct sim_op op, struct mica_event *event)
{
    sim_clock_spend(op.kind == SIM_OP_KERNEL || op.kind == SIM_OP_HOST ? sim.config.launch_ns : sim.config.call_ns);
    if (op.kind != SIM_OP_WAIT)
        join_legacy(stream);
    append(stream, op, event);
}

void sim_run_task(struct mica_stream *stream, const struct sim_task *task)
{
    switch (task->kind) {
    case SIM_TASK_KERNEL:
        sim_push(stream, (struct sim_op){.kind = SIM_OP_KERNEL, .value = sim_kernel_ns(task)}, NULL);
        break;
    case SIM_TASK_FILL: /* fills and copies on the card keep its multiprocessors busy */
        if (task->ns)
            sim_push(stream, (struct sim_op){.kind = SIM_OP_KERNEL, .value = task->ns}, NULL);
        break;
    case SIM_TASK_COPY:
        if (task->ns)
            sim_push(stream, (struct sim_op){.kind = SIM_OP_COPY, .value = task->ns}, NULL);
        break;
    case SIM_TASK_HOST:
        sim_host_push(stream, task->run, task->user);
        break;
    default:
        break;
    }
}

CUresult sim_submit(struct mica_stream *stream, const struct sim_task *task)
{
    if (stream->capture)
        return sim_capture_add(stream, task);
    CUresult result = stream->legacy ? sim_capture_implicit(stream->ctx, true) : MICA_CUDA_SUCCESS;
    if (!result)
        sim_run_task(stream, task);
    return result;
}
