/* How long launches take on the GPU: pairs of events around them, polled and never waited for. */
#ifndef MICA_METER_H
#define MICA_METER_H

#include "slice.h"

enum { MICA_PAIRS = 64, MICA_METERS = 32 };

struct mica_pair {
    CUevent begin, end;
    int state;
    int64_t estimate;
    uint64_t key;
};

/* Measurements of one context. */
struct mica_meter {
    _Atomic(CUcontext) context;
    int gpu;
    mica_lock lock;
    uint32_t head, tail; /* pairs [head, tail) are not settled; guarded by lock, tail - head is read without */
    CUevent last_end;    /* end of the latest settled interval: intervals that overlap are charged once */
    struct mica_pair pairs[MICA_PAIRS];
};

/* Meter of the current context; NULL without one, or when all meters are taken. */
struct mica_meter *mica_meter_current(void);
void mica_meter_forget(CUcontext context);
/* Nanoseconds a launch of this shape is expected to take. */
int64_t mica_meter_estimate(uint64_t key);
/* Whether this launch should be measured: long and little known shapes always, short ones now and then. */
bool mica_meter_should(uint64_t key, int64_t estimate);
/* Record the start of a measured launch; the pair's number, or -1. */
int mica_meter_begin(struct mica_meter *meter, CUstream stream, uint64_t key, int64_t estimate);
void mica_meter_end(struct mica_meter *meter, int pair, CUstream stream, bool launched);
/* Take over what has finished: corrects balance and estimates. Does nothing when another thread is at it. */
void mica_meter_settle(struct mica_meter *meter);
static inline uint32_t mica_meter_unsettled(const struct mica_meter *meter)
{
    return meter->tail - meter->head;
}

#endif
