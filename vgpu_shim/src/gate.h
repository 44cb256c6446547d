/* The compute gate: may this launch go to the card now? By the container's own balance of GPU time, and by turns where an arbiter lends the card
 * out. A launch that joins a batch under way asks nobody. */
#ifndef MICA_GATE_H
#define MICA_GATE_H

#include "meter.h"

/* One launch between begin and end, if it joined no batch under way. */
struct mica_launch {
    int gpu; /* negative: not counted (capture, no context) */
    struct mica_batch *batch; /* NULL = not measured: the estimate stands */
    int64_t estimate;
};

extern _Atomic int mica_captures;
static inline int mica_gate_captures(void)
{
    return atomic_load_explicit(&mica_captures, memory_order_relaxed);
}

/* Neither cap nor arbiter: most launches go without asking, one batch in some stands for them. */
static inline bool mica_gate_pass(void)
{
    int passes = atomic_load_explicit(&mica_meter_passes, memory_order_relaxed);
    if (MICA_UNLIKELY(passes <= 0))
        return false;
    atomic_store_explicit(&mica_meter_passes, passes - 1, memory_order_relaxed);
    return true;
}
/* Join the batch under way of the launch's stream, asking nobody; NULL when that cannot be. */
struct mica_batch *mica_gate_join(uint64_t key, CUstream stream);
/* Wait until a launch may be made and charge it. An error means that the launch must not happen. */
CUresult mica_gate_begin(struct mica_launch *launch, uint64_t key, CUstream stream);
/* The launch was made, or failed: measure or refund. */
void mica_gate_end(struct mica_launch *launch, CUresult result);
/* The program is about to wait for the card, and has waited: what is under way is complete, and over. */
void mica_gate_sync(void);
void mica_gate_synced(void);
/* True when it is another container's turn. */
bool mica_gate_revoked(int gpu);
/* A context is gone, with its events. */
void mica_gate_forget(CUcontext context);
/* Streams being captured into graphs: what is launched there counts when the graph is launched. */
void mica_gate_capture(int change);
bool mica_gate_capturing(CUstream stream);
/* How soon the helper should look again at work of a GPU that is in flight: one of the three, or until it should be over. */
uint64_t mica_gate_pace(int gpu, uint64_t now, uint64_t brisk, uint64_t calm, uint64_t leisure);
/* A forked child starts from nothing. */
void mica_gate_forked(void);

#endif
