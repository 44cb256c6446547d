/* See meter.h. A batch is FREE, OPEN (launches join; whoever closes it with nobody inside, or leaves it last, records its end), PENDING, FREE. */
#include "meter.h"

#include "gate.h"
#include "helper.h"
#include "work.h"

enum { FREE = MICA_BATCH_FREE, OPEN = MICA_BATCH_OPEN, PENDING = MICA_BATCH_PENDING };
enum { CAPTURE_RELAXED = 2 };

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
void mica_meter_empty(struct mica_meter *meter)
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
    atomic_store(&meter->taken, 0);
    meter->base = NULL;
    atomic_store(&meter->unsettled, 0);
    atomic_store(&meter->resting, 0);
    /* Leaves a hole: meters behind it are found under the lock only, until it is filled. */
    atomic_store(&meter->context, NULL);
}

static void account(int gpu, int64_t inflight, int batches, int64_t spread)
{
    mica_work_add(gpu, inflight, batches);
    atomic_fetch_add_explicit(&mica_meter_spread[gpu], spread, memory_order_relaxed);
}

void mica_meter_give_back(struct mica_batch *batch, int64_t ns)
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
            mica_meter_empty(&mica_meters[i]);
        atomic_store(&mica_meters[i].lock, 0);
    }
    atomic_store(&mica_meter_passes, 0);
    atomic_store(&mica_meter_blocking, 0);
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

/* Lock held. A free place, prepared and last in order; NULL when all are in use. */
static struct mica_batch *next_batch(struct mica_meter *meter)
{
    const uint64_t taken = atomic_load_explicit(&meter->taken, memory_order_relaxed);
    const int number = ~taken ? __builtin_ctzll(~taken) : 0;
    struct mica_batch *batch = &meter->batches[number];
    if (!~taken || atomic_load(&meter->resting) || !make_event(&batch->begin) || !make_event(&batch->end))
        return NULL;
    batch->older = meter->last;
    batch->newer = 0;
    if (meter->last)
        meter->batches[meter->last - 1].newer = number + 1;
    else
        meter->first = number + 1;
    meter->last = number + 1;
    atomic_store(&meter->taken, taken | UINT64_C(1) << number);
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
    atomic_store(&meter->taken, atomic_load_explicit(&meter->taken, memory_order_relaxed) & ~(UINT64_C(1) << (batch - meter->batches)));
    atomic_store(&batch->state, FREE);
    atomic_fetch_sub(&meter->unsettled, 1);
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
    batch->quiet = batch->blind = false;
    atomic_store_explicit(&batch->late, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->failed, 0, memory_order_relaxed);
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

/* From now on others may join. Another thread may have put one into this place meanwhile, where nobody would find it again; and a capture that began
 * meanwhile has closed what it found, so that with our launch this one ends. */
static void publish(struct mica_batch *batch)
{
    struct mica_batch *other = atomic_exchange(&mica_meter_open_batches[mica_meter_place(atomic_load(&batch->handle))], batch);
    if (other && other != batch)
        mica_meter_close_batch(other, atomic_load(&other->word), MICA_CLOSE_BESIDE);
    if (atomic_load(&mica_captures))
        mica_meter_close_batch(batch, atomic_load(&batch->word), MICA_CLOSE_HERE);
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
        publish(batch);
    mica_helper_wake();
    return batch;
}
