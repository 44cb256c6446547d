/* The compute gate: may this launch go to the card now? By the container's own balance of GPU time, and by turns where an arbiter lends the card
 * out. A launch that joins a batch under way asks nobody. */
#ifndef MICA_GATE_H
#define MICA_GATE_H

#include "current.h"
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
/* Join the batch under way of the launch's stream, asking nobody but the driver for its context; NULL when that cannot be. */
struct mica_batch *mica_gate_join(uint64_t key, CUstream stream);
/* The same where nothing is new: no calls but that for the context. NULL also says: try the other. */
static inline __attribute__((always_inline)) struct mica_batch *mica_gate_join_known(uint64_t key, CUstream stream)
{
    uintptr_t handle = (uintptr_t)stream;
    if (MICA_UNLIKELY(mica_gate_captures())) /* without limits in force there is no batch */
        return NULL;
    if (!mica_meter_explicit(stream)) {
        uint64_t number = mica_current_number();
        if (MICA_UNLIKELY(number >= MICA_METERS) && (number = mica_current_ask()) >= MICA_METERS)
            return NULL;
        handle = mica_meter_default(number, stream);
    }
    const size_t at = mica_shape_at(key);
    const struct mica_shape *shape = &mica_shapes[at];
    if (MICA_UNLIKELY(!key || atomic_load_explicit(&shape->key, memory_order_relaxed) != key))
        return NULL;
    return mica_meter_join(handle, (uint16_t)at, mica_shape_ns(shape), 1);
}
/* Wait until a launch may be made and charge it. An error means that the launch must not happen. */
CUresult mica_gate_begin(struct mica_launch *launch, uint64_t key, CUstream stream);
/* The launch was made, or failed: measure or refund. */
void mica_gate_end(struct mica_launch *launch, CUresult result);
/* The program is about to wait for the card (all: for everything that was launched in the current context), and has waited: what is under way is
 * complete, and over. */
void mica_gate_sync(bool all);
void mica_gate_synced(void);
/* True when it is another container's turn. */
bool mica_gate_revoked(int gpu);
/* Before a call that may end a context, and after it. */
void mica_gate_rest(CUcontext context);
void mica_gate_resume(CUcontext context, bool gone);
/* Streams being captured into graphs: what is launched there counts when the graph is launched. begins: before the call; began: it worked or not;
 * end: forget the capture that began in this stream, false when there is none. */
void mica_gate_capture_begins(void);
void mica_gate_capture_began(CUstream stream, bool worked);
bool mica_gate_capture_end(CUstream stream);
bool mica_gate_capturing(CUstream stream);
/* How soon the helper should look again at work of a GPU that is in flight: one of the three, or until it should be over. */
uint64_t mica_gate_pace(int gpu, uint64_t now, uint64_t brisk, uint64_t calm, uint64_t leisure);
/* A forked child starts from nothing. */
void mica_gate_forked(void);
void mica_captures_forked(void);

#endif
