/* The card as a time server. The whole card is a discrete-event simulation in shared memory that whoever looks at it runs up to the present,
 * so no process has to wake another and every completion has its exact time. */
#include "state.h"

static bool active(const struct sim_state *state, int gpu, int slot)
{
    return state->gpus[gpu].active[slot / 64] >> (slot % 64) & 1;
}

/* Kernels of a slot that could run now: its queues' heads. */
static unsigned runnable(const struct sim_state *state, int gpu, int slot)
{
    unsigned count = 0;
    for (int q = 0; q < SIM_QUEUES; q++) {
        const struct sim_queue *queue = &state->queues[slot][q];
        count += queue->gpu == gpu && queue->head < queue->tail && queue->ops[queue->head % SIM_RING].kind == SIM_OP_KERNEL;
    }
    return count;
}

/* True when an operation at the head of its queue is over, or begins and needs no time of the multiprocessors. */
static bool passes(struct sim_state *state, int gpu, int slot, struct sim_op *op)
{
    struct sim_gpu *card = &state->gpus[gpu];
    switch (op->kind) {
    case SIM_OP_KERNEL:
        return op->value == 0;
    case SIM_OP_WAIT:
        return state->queues[slot][op->other % SIM_QUEUES].head > op->value;
    case SIM_OP_HOST:
        return op->value != 0;
    case SIM_OP_COPY: /* by an engine of its own: done_at is its end once it has begun */
        if (!op->done_at) {
            op->done_at = card->time_ns + op->value;
            card->copies++;
        }
        if (op->done_at > card->time_ns)
            return false;
        card->copies--;
        return true;
    default:
        return true;
    }
}

/* Finish what is over at queue heads. Repeats because one may release another. False when the slot has nothing left. */
static bool settle_free(struct sim_state *state, int gpu, int slot)
{
    bool left = false, again = true;
    while (again) {
        again = left = false;
        for (int q = 0; q < SIM_QUEUES; q++) {
            struct sim_queue *queue = &state->queues[slot][q];
            while (queue->gpu == gpu && queue->head < queue->tail) {
                struct sim_op *op = &queue->ops[queue->head % SIM_RING];
                left = true;
                if (!passes(state, gpu, slot, op))
                    break;
                op->done_at = state->gpus[gpu].time_ns;
                queue->head++;
                again = true;
            }
        }
    }
    return left;
}

/* Next slot that can run after `after`, round robin; -1 if none. */
static int next_runnable(struct sim_state *state, int gpu, int after)
{
    for (int i = 1; i <= SIM_SLOTS; i++) {
        int slot = (after + i + SIM_SLOTS) % SIM_SLOTS;
        uint64_t *word = &state->gpus[gpu].active[slot / 64];
        if (*word == 0) {
            i += 63 - slot % 64;
            continue;
        }
        if (!active(state, gpu, slot))
            continue;
        if (state->slots[slot].state != SIM_SLOT_LIVE || !settle_free(state, gpu, slot)) {
            *word &= ~(UINT64_C(1) << (slot % 64));
            continue;
        }
        if (runnable(state, gpu, slot))
            return slot;
    }
    return -1;
}

/* Let the current slot's kernels run side by side for at most `limit` ns; returns the time taken. Each further one slows all down by the inflation. */
static uint64_t run_heads(struct sim_state *state, int gpu, int slot, uint64_t limit, const struct sim_timing *timing)
{
    uint64_t shortest = UINT64_MAX, unit = 1000 + timing->inflation * (runnable(state, gpu, slot) - 1);
    for (int q = 0; q < SIM_QUEUES; q++) {
        const struct sim_queue *queue = &state->queues[slot][q];
        const struct sim_op *op = &queue->ops[queue->head % SIM_RING];
        if (queue->gpu == gpu && queue->head < queue->tail && op->kind == SIM_OP_KERNEL && op->value < shortest)
            shortest = op->value;
    }
    /* slowly: progress is step * 1000 / unit, and at least 1 so that time always moves on */
    uint64_t step = unit == 1000 ? shortest : (uint64_t)((__extension__ (unsigned __int128)shortest * unit + 999) / 1000);
    uint64_t progress = shortest;
    if (step > limit) {
        step = limit;
        progress = unit == 1000 ? limit : (uint64_t)(__extension__ (unsigned __int128)limit * 1000 / unit);
        progress = progress ? progress : 1;
    }
    state->gpus[gpu].time_ns += step;
    for (int q = 0; q < SIM_QUEUES; q++) {
        struct sim_queue *queue = &state->queues[slot][q];
        struct sim_op *op = &queue->ops[queue->head % SIM_RING];
        if (queue->gpu != gpu || queue->head >= queue->tail || op->kind != SIM_OP_KERNEL)
            continue;
        op->value -= progress < op->value ? progress : op->value;
        state->slots[slot].work_ns[gpu] += progress;
        if (op->value == 0) {
            op->done_at = state->gpus[gpu].time_ns;
            state->slots[slot].kernels[gpu]++;
            queue->head++;
        }
    }
    return step;
}

uint64_t sim_sched_push(struct sim_state *state, int gpu, int slot, int q, struct sim_op op)
{
    struct sim_queue *queue = &state->queues[slot][q];
    uint64_t sequence = queue->tail;
    queue->ops[sequence % SIM_RING] = op;
    queue->tail = sequence + 1;
    state->gpus[gpu].active[slot / 64] |= UINT64_C(1) << (slot % 64);
    /* An event recorded on an idle stream is stamped now, even in a neighbour's slice: intervals are wall time. */
    (void)settle_free(state, gpu, slot);
    return sequence;
}

void sim_sched_settle(struct sim_state *state, int gpu, int slot)
{
    (void)settle_free(state, gpu, slot);
}

static void measure(struct sim_state *state, int gpu, uint64_t sample_ns)
{
    struct sim_gpu *card = &state->gpus[gpu];
    uint64_t length = card->time_ns - card->window_at;
    if (length < sample_ns)
        return;
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++) {
        struct sim_slot *slot = &state->slots[s];
        uint64_t busy = slot->busy_ns[gpu] - slot->window_busy[gpu];
        slot->utilization[gpu] = (uint32_t)(busy * 100 / length);
        slot->window_busy[gpu] = slot->busy_ns[gpu];
    }
    card->utilization = (uint32_t)((card->busy_ns - card->window_busy) * 100 / length);
    card->window_at = card->time_ns;
    card->window_busy = card->busy_ns;
}

/* When the first copy that has begun ends; `limit` if none does before. Finishes those that are over. */
static uint64_t next_copy(struct sim_state *state, int gpu, uint64_t limit)
{
    for (int slot = 0; state->gpus[gpu].copies && slot < (int)state->slots_used && slot < SIM_SLOTS; slot++) {
        if (!active(state, gpu, slot) || state->slots[slot].state != SIM_SLOT_LIVE)
            continue;
        (void)settle_free(state, gpu, slot);
        for (int q = 0; q < SIM_QUEUES; q++) {
            const struct sim_queue *queue = &state->queues[slot][q];
            const struct sim_op *op = &queue->ops[queue->head % SIM_RING];
            if (queue->gpu == gpu && queue->head < queue->tail && op->kind == SIM_OP_COPY && op->done_at && op->done_at < limit)
                limit = op->done_at;
        }
    }
    return limit;
}

/* The slot that has the card now, -1 for none; a new slice when the old one is over or its owner idle. */
static int pick(struct sim_state *state, int gpu, const struct sim_timing *timing)
{
    struct sim_gpu *card = &state->gpus[gpu];
    int current = card->current;
    bool valid = current >= 0 && current < SIM_SLOTS;
    if (valid && card->time_ns < card->slice_end && state->slots[current].state == SIM_SLOT_LIVE && settle_free(state, gpu, current)
        && runnable(state, gpu, current))
        return current;
    current = card->current = next_runnable(state, gpu, valid ? current : SIM_SLOTS - 1);
    card->slice_end = card->time_ns + timing->slice_ns;
    if (current >= 0 && current != card->last) {
        card->switch_end = card->last >= 0 ? card->time_ns + timing->switch_ns : card->time_ns;
        card->slice_end += card->switch_end - card->time_ns;
        card->last = current;
    }
    return current;
}

void sim_sched_advance(struct sim_state *state, int gpu, const struct sim_timing *timing)
{
    struct sim_gpu *card = &state->gpus[gpu];
    uint64_t now = sim_clock_ns();
    sim_state_reap(state, gpu, false);
    for (;;) {
        int current = pick(state, gpu, timing);
        if (card->time_ns >= now)
            break;
        uint64_t end = next_copy(state, gpu, now);
        if (current < 0 || card->time_ns < card->switch_end) {
            uint64_t idle_end = current < 0 || card->switch_end > end ? end : card->switch_end;
            card->time_ns = idle_end > card->time_ns ? idle_end : card->time_ns;
            continue;
        }
        end = card->slice_end < end ? card->slice_end : end;
        if (end <= card->time_ns) /* a copy ended: look again who can run */
            continue;
        uint64_t step = run_heads(state, gpu, current, end - card->time_ns, timing);
        state->slots[current].busy_ns[gpu] += step;
        card->busy_ns += step;
        measure(state, gpu, timing->sample_ns);
    }
    measure(state, gpu, timing->sample_ns);
}
