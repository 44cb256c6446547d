/* What launches take on the GPU: batches of launches of one stream between a pair of events, polled and never waited for. */
#ifndef MICA_METER_H
#define MICA_METER_H

#include "shapes.h"
#include "slice.h"

enum { MICA_BATCHES = 64, MICA_METERS = 128, MICA_OPEN = 64, MICA_BATCH_LAUNCHES = 64 };

_Static_assert(MICA_BATCHES == 64, "a bit each");

/* The word of a batch: everything that joining it needs, in one compare-and-swap. The guard bits are set while the field below has not run out: a
 * subtraction of too much borrows them, so that joining is one sum and one comparison. */
#define MICA_WORD_LEFT ((UINT64_C(1) << 35) - 1) /* ns of its budget that are left */
_Static_assert(MICA_WORD_LEFT == MICA_LONGEST_ESTIMATE_NS, "a subtraction of one estimate clears the guard and borrows nothing beyond it");
#define MICA_WORD_LEFT_GUARD (UINT64_C(1) << 35)
#define MICA_WORD_LAUNCH (UINT64_C(1) << 36) /* launches that may still join, 7 bits */
#define MICA_WORD_LAUNCH_GUARD (UINT64_C(1) << 43)
#define MICA_WORD_ENTER (UINT64_C(1) << 44) /* threads between joining and having launched, 10 bits */
#define MICA_WORD_OPEN (UINT64_C(1) << 54)
#define MICA_WORD_TURN (UINT64_C(1) << 55) /* which use of this place it is, 9 bits */
#define MICA_WORD_JOINABLE (MICA_WORD_OPEN | MICA_WORD_LEFT_GUARD | MICA_WORD_LAUNCH_GUARD)
#define MICA_WORD_LAUNCHES(word) ((unsigned)((word) >> 36) & 0x7f)
#define MICA_WORD_ENTERED(word) ((unsigned)((word) >> 44) & 0x3ff)

struct mica_batch {
    _Atomic uint64_t word;
    _Atomic uintptr_t handle; /* of the stream, see mica_meter_handle */
    CUstream stream;
    struct mica_meter *_Atomic meter;
    _Atomic int state;
    int older, newer; /* as first and last */
    unsigned limit;   /* launches at most */
    CUevent begin, end;
    int64_t budget;              /* ns charged in advance */
    int64_t spread;              /* of what the budget buys, square microseconds */
    int64_t paid;                /* ns charged so far for its having run */
    int64_t begun;               /* host time of its begin, 0 = not known yet */
    uint64_t before, recorded;   /* host times around recording `begin` */
    _Atomic uint64_t sent;       /* host time after the first launch, 0 = not yet */
    _Atomic uint64_t seen;       /* word when the helper last looked */
    int64_t observed;            /* quiet: host time at which it was seen to be over */
    bool unknown;                /* a shape's first measurement */
    bool quiet;                  /* no event marks its end, see close.c */
    _Atomic uint32_t late;       /* the use (turn + 1) that was closed some time after the last launch */
    _Atomic uint32_t failed;     /* launches in it that were not made */
    _Atomic int passes;          /* launches that nobody asked about after it, for which it stands too */
    bool blind;                  /* its end could not be recorded: the estimate stands */
    uint16_t shapes[MICA_BATCH_LAUNCHES]; /* the first launch's at limit - 1, the others' below */
};

/* Measurements of one context. Lock order: lock of a meter, nothing else. */
struct mica_meter {
    _Atomic(CUcontext) context;
    _Atomic int gpu; /* read once where it may become another context's meanwhile */
    mica_lock lock;
    int first, last; /* batches in use in the order they were opened: numbers + 1, 0 = none; guarded by lock */
    _Atomic uint64_t taken; /* those that are not free, a bit each; written under the lock */
    _Atomic uint32_t unsettled;
    _Atomic int resting; /* calls under way that may end the context: nothing of ours may enter it */
    /* the context's event clock against CLOCK_MONOTONIC; guarded by lock */
    CUevent base;
    int64_t base_at;
    int64_t call_ns; /* shortest time that recording an event took */
    struct mica_batch batches[MICA_BATCHES];
};

extern struct mica_meter mica_meters[MICA_METERS];
/* Batches of this process with a shape's first measurement; spread of all that is in flight. */
extern _Atomic int mica_meter_unknown[MICA_GPUS];
extern _Atomic int64_t mica_meter_spread[MICA_GPUS];

/* GPU of the current context (index, MICA_GPU_NONE, MICA_GPU_FOREIGN) and its meter; NULL when there is none to measure with. */
struct mica_meter *mica_meter_find(CUcontext context, int *gpu);
static inline __attribute__((always_inline)) struct mica_meter *mica_meter_current(int *gpu)
{
    CUcontext context = NULL;
    *gpu = MICA_GPU_NONE;
    if (MICA_UNLIKELY(!mica_real.cuCtxGetCurrent || mica_real.cuCtxGetCurrent(&context) || !context))
        return NULL;
    if (MICA_UNLIKELY(atomic_load_explicit(&mica_meters[0].context, memory_order_acquire) != context))
        return mica_meter_find(context, gpu);
    *gpu = atomic_load_explicit(&mica_meters[0].gpu, memory_order_relaxed);
    return &mica_meters[0];
}
/* Launches of this process that may go without asking: no GPU of it has a cap, and there is no arbiter. Approximate between threads. */
extern _Atomic int mica_meter_passes;
/* A call is about to be made that may end the context: returns when nobody of ours is in it, nor will be. After the call: it is gone, and what was
 * measured with in it, or everything goes on. */
void mica_meter_rest(CUcontext context);
void mica_meter_resume(CUcontext context, bool gone);
/* A forked child: no context of the parent's is left. */
void mica_meter_forked(void);

/* Open batches by stream; one of another stream may have the place. */
extern _Atomic(struct mica_batch *) mica_meter_open_batches[MICA_OPEN];
static inline size_t mica_meter_place(uintptr_t handle)
{
    return (size_t)(handle * UINT64_C(0x9e3779b97f4a7c15) >> 58) % MICA_OPEN;
}

/* A stream tells its context, but the default ones, of which each context has its own. */
static inline bool mica_meter_explicit(CUstream stream)
{
    return (uintptr_t)stream > (uintptr_t)MICA_STREAM_PER_THREAD;
}
/* Small numbers, which no stream is. */
static inline uintptr_t mica_meter_default(uintptr_t number, CUstream stream)
{
    return 4 * number + 4 + (uintptr_t)stream;
}
static inline bool mica_meter_is_default(uintptr_t handle, bool per_thread)
{
    return handle < mica_meter_default(MICA_METERS, NULL) && (handle % 4 == 2) == per_thread;
}
static inline uintptr_t mica_meter_handle(const struct mica_meter *meter, CUstream stream)
{
    return mica_meter_explicit(stream) ? (uintptr_t)stream : mica_meter_default((uintptr_t)(meter - mica_meters), stream);
}

/* What the batch's word becomes when a launch of that many ns joins; 0 when it cannot: full, closed, another stream's. */
static inline uint64_t mica_meter_joined(struct mica_batch *batch, uint64_t word, uintptr_t handle, int64_t ns)
{
    const uint64_t joined = word + (MICA_WORD_ENTER - MICA_WORD_LAUNCH) - (uint64_t)ns;
    const bool can = (~joined & MICA_WORD_JOINABLE) == 0 && atomic_load_explicit(&batch->handle, memory_order_relaxed) == handle;
    return MICA_LIKELY(can) ? joined : 0;
}

/* Join the open batch of that handle; NULL when there is none or it is full. Lock-free. ns: what the launch should take; tries: 0 for as
 * often as it takes. */
static inline __attribute__((always_inline)) struct mica_batch *mica_meter_join(uintptr_t handle, uint16_t shape, int64_t ns, int tries)
{
    struct mica_batch *batch = atomic_load_explicit(&mica_meter_open_batches[mica_meter_place(handle)], memory_order_acquire);
    if (MICA_UNLIKELY(!batch))
        return NULL;
    uint64_t word = atomic_load_explicit(&batch->word, memory_order_acquire), joined;
    do {
        joined = mica_meter_joined(batch, word, handle, ns);
        if (MICA_UNLIKELY(!joined))
            return NULL;
        if (MICA_LIKELY(atomic_compare_exchange_strong_explicit(&batch->word, &word, joined, memory_order_acq_rel, memory_order_acquire))) {
            batch->shapes[MICA_WORD_LAUNCHES(word) - 1] = shape;
            return batch;
        }
    } while (--tries != 0);
    return NULL;
}

struct mica_opening {
    CUstream stream;
    uint16_t shape;
    bool unknown;
    unsigned limit; /* launches at most, 1 to MICA_BATCH_LAUNCHES */
    int64_t estimate, budget; /* budget >= estimate */
    int passes;               /* launches that may go without asking once the batch is full: neither cap nor arbiter */
};
/* Open a batch with its first launch in it; NULL when nothing can be measured (too much under way, no events) or (revoked) the turn ended meanwhile. */
struct mica_batch *mica_meter_open(struct mica_meter *meter, const struct mica_opening *opening, bool *revoked);
/* The launch was made, or failed. */
void mica_meter_leave_slow(struct mica_batch *batch, uint64_t word);
static inline void mica_meter_leave(struct mica_batch *batch, bool launched)
{
    if (MICA_UNLIKELY(!launched))
        atomic_fetch_add(&batch->failed, 1); /* while we are inside: afterwards it may be another's */
    uint64_t word = atomic_fetch_sub_explicit(&batch->word, MICA_WORD_ENTER, memory_order_acq_rel) - MICA_WORD_ENTER;
    const unsigned high = (unsigned)(word >> 36); /* of which the compiler can test bits in place */
    if (MICA_UNLIKELY(!(high & (unsigned)(MICA_WORD_OPEN >> 36)) || !(high & 0x7f)))
        mica_meter_leave_slow(batch, word);
}
/* close.c: who closes a batch says how its last launch, or the next one of its stream, stands to that. */
enum {
    MICA_CLOSE_HERE,  /* this thread launches there, or waits for everything: an event holds up nobody */
    MICA_CLOSE_AMONG, /* others may be at work meanwhile */
    MICA_CLOSE_BESIDE /* and another context may be current */
};
/* Some stream of this process waits for the legacy default one, and that one for it. */
extern _Atomic int mica_meter_blocking;
/* Close that use of the batch, if it is open. */
void mica_meter_close_batch(struct mica_batch *batch, uint64_t word, int how);
/* Close the open batches: of all streams, or (stale) of those that nothing was added to since the last such call. */
void mica_meter_close(struct mica_meter *meter, int how, bool stale);
/* Close the open batches of the stream of that handle, or (0) of all, and wait until no other thread is still recording the end of one: what is
 * measured with must be out of a stream before it is destroyed, and before a capture. No lock, so that a full queue holds up nobody else. */
void mica_meter_end(struct mica_meter *meter, uintptr_t handle);
/* Close the one in the place of this stream, which is full or another stream's. */
void mica_meter_close_stream(struct mica_meter *meter, CUstream stream);
static inline bool mica_meter_late(const struct mica_batch *batch)
{
    return batch->quiet || atomic_load(&batch->late) == atomic_load(&batch->word) / MICA_WORD_TURN + 1;
}
/* Take over what has finished: corrects balance and estimates. Does nothing when another thread is at it. */
void mica_meter_settle(struct mica_meter *meter);
/* As settle, for the helper thread, which may close batches too: in the context, with the lock held all the time. */
void mica_meter_serve(struct mica_meter *meter, bool close);
static inline uint32_t mica_meter_unsettled(const struct mica_meter *meter)
{
    return atomic_load_explicit(&meter->unsettled, memory_order_relaxed);
}

/* Lock held: a finished batch's place is free again; the meter is as new. */
void mica_meter_retire(struct mica_batch *batch);
void mica_meter_empty(struct mica_meter *meter);
/* Charged in advance and not launched: given back. */
void mica_meter_give_back(struct mica_batch *batch, int64_t ns);
/* meter.c and pay.c: the states of a batch. */
enum { MICA_BATCH_FREE, MICA_BATCH_OPEN, MICA_BATCH_PENDING };

/* Event calls of this thread must not break a stream capture that runs elsewhere in the program. Returns the mode to restore. */
int mica_meter_relax(void);
void mica_meter_restore(int mode);
/* As relax, where it matters: while something is captured. */
int mica_meter_relax_if_captured(void);

/* settle.c, lock held. Host times of a batch that has begun, or (its end event has happened) is over; false when nothing was measured. */
bool mica_meter_begun(struct mica_meter *meter, struct mica_batch *batch, int64_t *begin);
bool mica_meter_over(struct mica_meter *meter, struct mica_batch *batch, int64_t *begin, int64_t *end);
/* Whether a batch that was closed quietly is over, as cuEventQuery answers; in its context. */
CUresult mica_meter_observe(struct mica_meter *meter, struct mica_batch *batch);
/* Nanoseconds of the stretch that nothing was charged for yet; the watermark moves to its end. Stretches must come in the order of their beginnings. */
int64_t mica_meter_claim(int gpu, int64_t begin, int64_t end);

#endif
