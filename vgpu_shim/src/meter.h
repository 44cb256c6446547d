/* How long launches take on the GPU: pairs of events around them, polled and never waited for. */
#ifndef MICA_METER_H
#define MICA_METER_H

#include "slice.h"

enum { MICA_PAIRS = 64, MICA_METERS = 128 };

struct mica_pair {
    CUevent begin, end;
    CUstream stream;
    int state;
    int64_t estimate;
    uint64_t key;
};

/* Measurements of one context. */
struct mica_meter {
    _Atomic(CUcontext) context;
    int gpu;
    mica_lock lock;
    uint32_t head, tail;           /* pairs [head, tail) are in use or wait for an older one; guarded by lock */
    _Atomic uint32_t unsettled;    /* how many of them are in use */
    CUevent last_begin, last_end;  /* latest settled stretch of work: intervals that overlap are charged once */
    struct mica_pair pairs[MICA_PAIRS];
};

/* GPU of the current context (index, MICA_GPU_NONE, MICA_GPU_FOREIGN) and its meter; NULL when there is none to measure with. */
struct mica_meter *mica_meter_current(int *gpu);
void mica_meter_forget(CUcontext context);
/* A forked child: no context of the parent's is left. */
void mica_meter_forked(void);
/* Nanoseconds a launch of this shape is expected to take; much, for one that was never measured. */
int64_t mica_meter_estimate(uint64_t key);
/* Whether this launch should be measured: long and little known shapes always, short ones now and then. */
bool mica_meter_should(uint64_t key, int64_t estimate);
/* Record the start of a measured launch; the pair's number, or -1. */
int mica_meter_begin(struct mica_meter *meter, CUstream stream, uint64_t key, int64_t estimate);
void mica_meter_end(struct mica_meter *meter, int pair, bool launched);
/* Take over what has finished: corrects balance and estimates. Does nothing when another thread is at it. */
void mica_meter_settle(struct mica_meter *meter);
static inline uint32_t mica_meter_unsettled(const struct mica_meter *meter)
{
    return atomic_load_explicit(&meter->unsettled, memory_order_relaxed);
}

#endif
