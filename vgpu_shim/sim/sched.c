/* The card as a time server. The whole card is a discrete-event simulation in shared memory that whoever looks at it runs up to the present,
 * so no process has to wake another and every completion has its exact time. */
#include "state.h"

static bool runnable(struct sim_state *state, int gpu, int slot)
{
    for (int q = 0; q < SIM_QUEUES; q++) {
        const struct sim_queue *queue = &state->queues[slot][q];
        if (queue->gpu == gpu && queue->head < queue->tail && queue->ops[queue->head % SIM_RING].kind == SIM_OP_KERNEL)
            return true;
    }
    return false;
}

/* Finish operations at queue heads that need no GPU time. Repeats because one may release another. */
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
                if (op->kind == SIM_OP_KERNEL && op->value > 0)
                    break;
                if (op->kind == SIM_OP_WAIT && state->queues[slot][op->other % SIM_QUEUES].head <= op->value)
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
        if (!(*word & UINT64_C(1) << (slot % 64)))
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

/* Let the current slot's kernels run side by side for at most `limit` ns; returns the time taken. */
static uint64_t run_heads(struct sim_state *state, int gpu, int slot, uint64_t limit)
{
    uint64_t step = limit;
    for (int q = 0; q < SIM_QUEUES; q++) {
        struct sim_queue *queue = &state->queues[slot][q];
        struct sim_op *op = &queue->ops[queue->head % SIM_RING];
        if (queue->gpu == gpu && queue->head < queue->tail && op->kind == SIM_OP_KERNEL && op->value < step)
            step = op->value;
    }
    state->gpus[gpu].time_ns += step;
    for (int q = 0; q < SIM_QUEUES; q++) {
        struct sim_queue *queue = &state->queues[slot][q];
        struct sim_op *op = &queue->ops[queue->head % SIM_RING];
        if (queue->gpu != gpu || queue->head >= queue->tail || op->kind != SIM_OP_KERNEL)
            continue;
        op->value -= step;
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

static void measure(struct sim_gpu *card)
{
    uint64_t length = card->time_ns - card->window_at;
    if (length < 500000000u)
        return;
    card->utilization = (uint32_t)((card->busy_ns - card->window_busy) * 100 / length);
    card->window_at = card->time_ns;
    card->window_busy = card->busy_ns;
}

void sim_sched_advance(struct sim_state *state, int gpu, uint64_t slice_ns)
{
    struct sim_gpu *card = &state->gpus[gpu];
    uint64_t now = sim_clock_ns();
    sim_state_reap(state, gpu, false);
    for (;;) {
        int current = card->current;
        if (current < 0 || current >= SIM_SLOTS || card->time_ns >= card->slice_end || state->slots[current].state != SIM_SLOT_LIVE
            || !settle_free(state, gpu, current) || !runnable(state, gpu, current)) {
            current = card->current = next_runnable(state, gpu, current < 0 || current >= SIM_SLOTS ? SIM_SLOTS - 1 : current);
            card->slice_end = card->time_ns + slice_ns;
        }
        if (current < 0 && card->time_ns < now)
            card->time_ns = now;
        if (card->time_ns >= now)
            break;
        uint64_t end = card->slice_end < now ? card->slice_end : now;
        uint64_t step = run_heads(state, gpu, current, end - card->time_ns);
        state->slots[current].busy_ns[gpu] += step;
        card->busy_ns += step;
    }
    measure(card);
}
