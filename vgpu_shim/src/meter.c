/* See meter.h. A batch is FREE, OPEN (launches join; whoever closes it with nobody inside, or leaves it last, records its end), PENDING, FREE. */
#include "meter.h"

#include "gate.h"
#include "helper.h"
#include "work.h"

enum { FREE = MICA_BATCH_FREE, OPEN = MICA_BATCH_OPEN, PENDING = MICA_BATCH_PENDING };
enum { CAPTURE_RELAXED = 2, ENDING_NAP_NS = 20000 };

struct mica_meter mica_meters[MICA_METERS];
_Atomic int mica_meter_unknown[MICA_GPUS];
_Atomic int64_t mica_meter_spread[MICA_GPUS];
_Atomic int mica_meter_passes;
_Atomic(struct mica_batch *) mica_meter_open_batches[MICA_OPEN];
static mica_lock table_lock;

struct mica_meter *mica_meter_find(CUcontext context, int *gpu)
{
    struct mica_meter *found = NULL, *unused = NULL;
    for (int i = 0; i < MICA_METERS && !found; i++) {
        CUcontext owner = atomic_load_explicit(&mica_meters[i].context, memory_order_acquire);
        if (owner == context)
            found = &mica_meters[i];
        else if (!owner)
            break;
    }
    if (!found) {
        mica_acquire(&table_lock);
        for (int i = 0; i < MICA_METERS && !found; i++) {
            CUcontext owner = atomic_load(&mica_meters[i].context);
            if (owner == context)
                found = &mica_meters[i];
            else if (!owner && !unused)
                unused = &mica_meters[i];
        }
        if (!found && unused) {
            unused->gpu = mica_gpu_current();
            atomic_store_explicit(&unused->context, context, memory_order_release);
            found = unused;
        }
        mica_release(&table_lock);
    }
    *gpu = found ? found->gpu : mica_gpu_current(); /* the budget is the GPU's, whether there is a meter or not */
    return found;
}

/* Lock held (or nobody else is there). */
static void empty(struct mica_meter *meter)
{
    for (int b = 0; b < MICA_BATCHES; b++) {
        struct mica_batch *batch = &meter->batches[b];
        /* closed for good: who is inside finds nothing to do */
        atomic_store(&batch->word, ((atomic_load(&batch->word) + MICA_WORD_TURN) & ~(MICA_WORD_TURN - 1)) | MICA_WORD_ENTER * 0x200);
        atomic_store(&batch->state, FREE);
        batch->older = batch->newer = 0;
        batch->begin = batch->end = NULL; /* the driver destroys the events with the context */
    }
    meter->first = meter->last = 0;
    meter->taken = 0;
    meter->base = NULL;
    atomic_store(&meter->unsettled, 0);
    /* Leaves a hole: meters behind it are found under the lock only, until it is filled. */
    atomic_store(&meter->context, NULL);
}

static void account(int gpu, int64_t inflight, int batches, int64_t spread)
{
    mica_work_add(gpu, inflight, batches);
    atomic_fetch_add_explicit(&mica_meter_spread[gpu], spread, memory_order_relaxed);
}

/* What was charged in advance and not launched is given back. */
static void give_back(struct mica_batch *batch, int64_t ns)
{
    const struct mica_meter *meter = batch->meter;
    batch->budget -= ns;
    account(meter->gpu, -ns, 0, 0);
    atomic_fetch_add_explicit(&mica_region->gpus[meter->gpu].balance, ns, memory_order_relaxed);
}

void mica_meter_forked(void)
{
    atomic_store(&table_lock, 0);
    mica_current_forget();
    for (int i = 0; i < MICA_METERS; i++) {
        if (atomic_load(&mica_meters[i].context))
            empty(&mica_meters[i]);
        atomic_store(&mica_meters[i].lock, 0);
    }
    atomic_store(&mica_meter_passes, 0);
    for (int g = 0; g < MICA_GPUS; g++) {
        atomic_store(&mica_meter_unknown[g], 0);
        atomic_store(&mica_meter_spread[g], 0);
    }
}

int mica_meter_relax(void)
{
    int mode = CAPTURE_RELAXED;
    return mica_real.cuThreadExchangeStreamCaptureMode && mica_real.cuThreadExchangeStreamCaptureMode(&mode) == 0 ? mode : -1;
}

void mica_meter_restore(int mode)
{
    if (mode >= 0)
        (void)mica_real.cuThreadExchangeStreamCaptureMode(&mode);
}

int mica_meter_relax_if_captured(void)
{
    return mica_gate_captures() ? mica_meter_relax() : -1;
}

static bool make_event(CUevent *event)
{
    return *event || (mica_real.cuEventCreate && mica_real.cuEventCreate(event, 0) == 0);
}

/* Called once per batch, by whoever closed it last. */
static void finish(struct mica_batch *batch, uint64_t word)
{
    struct mica_batch *expected = batch;
    const int mode = mica_meter_relax_if_captured();
    atomic_compare_exchange_strong(&mica_meter_open_batches[mica_meter_place(atomic_load(&batch->handle))], &expected, NULL);
    give_back(batch, (int64_t)(word & MICA_WORD_LEFT));
    if (mica_real.cuEventRecord(batch->end, batch->stream))
        batch->blind = true;
    mica_meter_restore(mode);
    atomic_store_explicit(&batch->state, PENDING, memory_order_release);
}

static void close_batch(struct mica_batch *batch, bool late)
{
    uint64_t word = atomic_load(&batch->word);
    do {
        if (!(word & MICA_WORD_OPEN))
            return;
    } while (!atomic_compare_exchange_weak(&batch->word, &word, word & ~MICA_WORD_OPEN));
    batch->late = late;
    if (!MICA_WORD_ENTERED(word))
        finish(batch, word);
}

void mica_meter_leave_slow(struct mica_batch *batch, uint64_t word, bool launched)
{
    if (!launched) /* which of its launches failed does not matter when all are of one shape, and hardly otherwise */
        batch->shapes[MICA_WORD_LAUNCHES(word)] = MICA_SHAPE_NONE;
    if (!(word & MICA_WORD_OPEN)) {
        if (!MICA_WORD_ENTERED(word))
            finish(batch, word);
    } else if (!MICA_WORD_LAUNCHES(word)) {
        const int passes = batch->passes; /* before we close it; another thread may have done so, and it be another's: as good a number */
        close_batch(batch, false);
        if (passes && !mica_gate_captures())
            atomic_store_explicit(&mica_meter_passes, passes, memory_order_relaxed);
    }
}

/* Closed with nobody inside, and its end is not recorded yet: whoever did that is at it, and uses the stream. */
static bool ending(const struct mica_batch *batch)
{
    const uint64_t word = atomic_load(&batch->word);
    return !(word & MICA_WORD_OPEN) && !MICA_WORD_ENTERED(word) && atomic_load_explicit(&batch->state, memory_order_acquire) == OPEN;
}

void mica_meter_end(struct mica_meter *meter, uintptr_t handle)
{
    for (int b = 0; b < MICA_BATCHES; b++) {
        struct mica_batch *batch = &meter->batches[b];
        if (atomic_load(&batch->state) != OPEN || (handle && atomic_load(&batch->handle) != handle))
            continue;
        close_batch(batch, false);
        while (ending(batch) && (!handle || atomic_load(&batch->handle) == handle)) /* a place in use again may be another stream's */
            mica_sleep(ENDING_NAP_NS);
    }
}

void mica_meter_close(struct mica_meter *meter, bool stale)
{
    for (int o = 0; o < MICA_OPEN; o++) {
        struct mica_batch *batch = atomic_load(&mica_meter_open_batches[o]);
        if (!batch || batch->meter != meter)
            continue;
        uint64_t word = atomic_load(&batch->word);
        if (!stale || (word == batch->seen && !MICA_WORD_ENTERED(word)))
            close_batch(batch, stale);
        batch->seen = word;
    }
}

void mica_meter_close_stream(struct mica_meter *meter, CUstream stream)
{
    struct mica_batch *batch = atomic_load(&mica_meter_open_batches[mica_meter_place(mica_meter_handle(meter, stream))]);
    if (batch)
        close_batch(batch, false);
}

/* Lock held. A free place, prepared and last in order; NULL when all are in use. */
static struct mica_batch *next_batch(struct mica_meter *meter)
{
    const int number = ~meter->taken ? __builtin_ctzll(~meter->taken) : 0;
    struct mica_batch *batch = &meter->batches[number];
    if (!~meter->taken || !make_event(&batch->begin) || !make_event(&batch->end))
        return NULL;
    batch->older = meter->last;
    batch->newer = 0;
    if (meter->last)
        meter->batches[meter->last - 1].newer = number + 1;
    else
        meter->first = number + 1;
    meter->last = number + 1;
    meter->taken |= UINT64_C(1) << number;
    return batch;
}

static void unlink_batch(struct mica_meter *meter, struct mica_batch *batch)
{
    *(batch->older ? &meter->batches[batch->older - 1].newer : &meter->first) = batch->newer;
    *(batch->newer ? &meter->batches[batch->newer - 1].older : &meter->last) = batch->older;
}

/* The batch is over, whatever is known of it. Lock held. */
void mica_meter_retire(struct mica_batch *batch)
{
    struct mica_meter *meter = batch->meter;
    account(meter->gpu, -batch->budget, -1, -batch->spread);
    if (batch->unknown)
        atomic_fetch_sub(&mica_meter_unknown[meter->gpu], 1);
    unlink_batch(meter, batch);
    meter->taken &= ~(UINT64_C(1) << (batch - meter->batches));
    atomic_store(&batch->state, FREE);
    atomic_fetch_sub(&meter->unsettled, 1);
}

void mica_meter_forget(CUcontext context)
{
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        if (atomic_load(&meter->context) != context)
            continue;
        mica_acquire(&meter->lock);
        for (int b = 0; b < MICA_BATCHES; b++)
            if (atomic_load(&meter->batches[b].state) != FREE)
                mica_meter_retire(&meter->batches[b]);
        empty(meter);
        mica_release(&meter->lock);
    }
}

/* A record that failed, of an event nobody waits for: not measured. */
static void cancel(struct mica_meter *meter, struct mica_batch *batch)
{
    mica_acquire(&meter->lock);
    if (atomic_load(&batch->state) == OPEN) {
        atomic_fetch_add_explicit(&mica_region->gpus[meter->gpu].balance, batch->budget, memory_order_relaxed);
        mica_meter_retire(batch);
    }
    mica_release(&meter->lock);
}

static void prepare(struct mica_meter *meter, struct mica_batch *batch, const struct mica_opening *opening)
{
    const int64_t mean = opening->estimate > 0 ? opening->estimate : 1;
    int64_t buys = opening->budget / mean;
    buys = buys < 1 ? 1 : buys > opening->limit ? opening->limit : buys;
    uint64_t turn = (atomic_load(&batch->word) & ~(MICA_WORD_TURN - 1)) + MICA_WORD_TURN;
    batch->stream = opening->stream;
    batch->meter = meter;
    atomic_store(&batch->handle, mica_meter_handle(meter, opening->stream));
    batch->limit = opening->limit;
    batch->budget = opening->budget;
    batch->spread = atomic_load_explicit(&mica_shapes[opening->shape].spread, memory_order_relaxed) * buys;
    batch->unknown = opening->unknown;
    batch->passes = opening->passes;
    batch->late = batch->blind = false;
    batch->seen = 0;
    batch->paid = batch->begun = 0;
    batch->shapes[opening->limit - 1] = opening->shape;
    atomic_store(&batch->sent, 0);
    atomic_store(&batch->state, OPEN);
    atomic_store_explicit(&batch->word,
                          turn | MICA_WORD_JOINABLE | MICA_WORD_ENTER | (uint64_t)(opening->limit - 1) * MICA_WORD_LAUNCH
                              | (uint64_t)(opening->budget - opening->estimate),
                          memory_order_release);
    atomic_fetch_sub_explicit(&mica_region->gpus[meter->gpu].balance, opening->budget, memory_order_relaxed);
    account(meter->gpu, opening->budget, 1, batch->spread);
    if (opening->unknown)
        atomic_fetch_add(&mica_meter_unknown[meter->gpu], 1);
    atomic_fetch_add(&meter->unsettled, 1);
}

struct mica_batch *mica_meter_open(struct mica_meter *meter, const struct mica_opening *opening, bool *revoked)
{
    const int mode = mica_meter_relax_if_captured();
    mica_acquire(&meter->lock);
    struct mica_batch *batch = next_batch(meter);
    if (batch)
        prepare(meter, batch, opening);
    mica_release(&meter->lock);
    *revoked = batch && mica_gate_revoked(meter->gpu); /* asked after the batch was counted: the arbiter does the opposite */
    bool failed = *revoked;
    if (batch && !failed) {
        /* Outside the lock: a full queue of the driver may make this wait. */
        batch->before = mica_now();
        failed = mica_real.cuEventRecord(batch->begin, opening->stream) != 0;
        batch->recorded = mica_now();
    }
    if (batch && failed)
        cancel(meter, batch);
    mica_meter_restore(mode);
    if (!batch || failed)
        return NULL;
    if (opening->limit > 1)
        atomic_store(&mica_meter_open_batches[mica_meter_place(atomic_load(&batch->handle))], batch);
    mica_helper_wake();
    return batch;
}
