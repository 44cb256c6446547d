/* The compute gate: a budget of GPU time per GPU, shared by all processes of the container. A launch is charged an estimate before it
 * goes to the driver and settled with its measured time afterwards. */
#ifndef MICA_GATE_H
#define MICA_GATE_H

#include "slice.h"

struct mica_meter; /* measurements of one context, meter.h */

/* One launch between begin and end. */
struct mica_launch {
    struct mica_meter *meter; /* NULL: cannot be measured */
    int gpu;                  /* negative: not counted (capture, no context) */
    int pair;                 /* of events around it, -1 = not measured: the estimate stands */
    int64_t estimate;
};

/* Wait until the balance allows a launch and charge it. An error means that the launch must not happen. */
CUresult mica_gate_begin(struct mica_launch *launch, uint64_t key, CUstream stream, bool per_thread);
/* The launch was made, or failed: measure or refund. */
void mica_gate_end(struct mica_launch *launch, CUresult result);
/* A context is gone, with its events. */
void mica_gate_forget(CUcontext context);
/* Streams being captured into graphs: what is launched there counts when the graph is launched. */
void mica_gate_capture(int change);
bool mica_gate_capturing(CUstream stream);
/* A forked child starts from nothing. */
void mica_gate_forked(void);

#endif
