/* See meter.h. A batch is FREE, OPEN (launches join; whoever closes it with nobody inside, or leaves it last, records its end), PENDING, FREE. */
#include "meter.h"

#include "gate.h"
#include "helper.h"
#include "work.h"

enum { FREE, OPEN, PENDING };
enum { CAPTURE_RELAXED = 2 };

struct mica_meter mica_meters[MICA_METERS];
_Atomic int mica_meter_unknown[MICA_GPUS];
_Atomic int64_t mica_meter_spread[MICA_GPUS];
static mica_lock table_lock;

struct mica_meter *mica_meter_current(int *gpu)
{
    CUcontext context = NULL;
    *gpu = MICA_GPU_NONE;
    if (!mica_real.cuCtxGetCurrent || mica_real.cuCtxGetCurrent(&context) || !context)
        return NULL;
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
    for (int o = 0; o < MICA_OPEN; o++)
        atomic_store(&meter->open[o], 0);
    for (int b = 0; b < MICA_BATCHES; b++) {
        struct mica_batch *batch = &meter->batches[b];
        /* closed for good: who is inside finds nothing to do */
        atomic_store(&batch->word, ((atomic_load(&batch->word) + MICA_WORD_TURN) | MICA_WORD_CLOSED | MICA_WORD_ENTER * 0x80)
                                       & ~(MICA_WORD_LEFT));
        atomic_store(&batch->state, FREE);
        batch->older = batch->newer = 0;
        batch->begin = batch->end = NULL; /* the driver destroys the events with the context */
    }
    meter->first = meter->last = 0;
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
static void give_back(struct mica_meter *meter, struct mica_batch *batch, int64_t ns)
{
    batch->budget -= ns;
    account(meter->gpu, -ns, 0, 0);
    atomic_fetch_add_explicit(&mica_region->gpus[meter->gpu].balance, ns, memory_order_relaxed);
}

void mica_meter_forked(void)
{
    atomic_store(&table_lock, 0);
    for (int i = 0; i < MICA_METERS; i++) {
        if (atomic_load(&mica_meters[i].context))
            empty(&mica_meters[i]);
        atomic_store(&mica_meters[i].lock, 0);
    }
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

/* Only while something is captured does the mode matter. */
static int relax(void)
{
    return mica_gate_captures() ? mica_meter_relax() : -1;
}

static bool make_event(CUevent *event)
{
    return *event || (mica_real.cuEventCreate && mica_real.cuEventCreate(event, 0) == 0);
}

/* Called once per batch, by whoever closed it last. */
static void finish(struct mica_meter *meter, struct mica_batch *batch, uint64_t word)
{
    const int number = (int)(batch - meter->batches);
    CUstream stream = atomic_load(&batch->stream);
    int expected = number + 1, mode = relax();
    atomic_compare_exchange_strong(&meter->open[mica_meter_place(stream)], &expected, 0);
    give_back(meter, batch, (int64_t)(word & MICA_WORD_LEFT));
    if (mica_real.cuEventRecord(batch->end, stream))
        batch->blind = true;
    mica_meter_restore(mode);
    atomic_store_explicit(&batch->state, PENDING, memory_order_release);
}

static void close_batch(struct mica_meter *meter, struct mica_batch *batch, bool late)
{
    uint64_t word = atomic_load(&batch->word);
    do {
        if (word & MICA_WORD_CLOSED)
            return;
    } while (!atomic_compare_exchange_weak(&batch->word, &word, word | MICA_WORD_CLOSED));
    batch->late = late;
    if (!MICA_WORD_ENTERED(word))
        finish(meter, batch, word);
}

void mica_meter_leave_slow(struct mica_meter *meter, struct mica_batch *batch, uint64_t word, bool launched)
{
    uint64_t none = 0;
    if (!launched) /* which of its launches failed does not matter when all are of one shape, and hardly otherwise */
        batch->shapes[batch->limit - 1 - MICA_WORD_LAUNCHES(word)] = MICA_SHAPE_NONE;
    atomic_compare_exchange_strong(&batch->sent, &none, mica_now());
    if (word & MICA_WORD_CLOSED) {
        if (!MICA_WORD_ENTERED(word))
            finish(meter, batch, word);
    } else if (!MICA_WORD_LAUNCHES(word)) {
        close_batch(meter, batch, false);
    }
}

void mica_meter_close(struct mica_meter *meter, bool stale)
{
    for (int o = 0; o < MICA_OPEN; o++) {
        int number = atomic_load(&meter->open[o]) - 1;
        if (number < 0)
            continue;
        struct mica_batch *batch = &meter->batches[number];
        uint64_t word = atomic_load(&batch->word);
        if (!stale || (word == batch->seen && !MICA_WORD_ENTERED(word)))
            close_batch(meter, batch, stale);
        batch->seen = word;
    }
}

void mica_meter_close_stream(struct mica_meter *meter, CUstream stream)
{
    int number = atomic_load(&meter->open[mica_meter_place(stream)]) - 1;
    if (number >= 0)
        close_batch(meter, &meter->batches[number], false);
}

/* Lock held. A free place, prepared and last in order; NULL when all are in use. */
static struct mica_batch *next_batch(struct mica_meter *meter)
{
    int number = 0;
    while (number < MICA_BATCHES && atomic_load(&meter->batches[number].state) != FREE)
        number++;
    struct mica_batch *batch = &meter->batches[number];
    if (number == MICA_BATCHES || !make_event(&batch->begin) || !make_event(&batch->end))
        return NULL;
    batch->older = meter->last;
    batch->newer = 0;
    if (meter->last)
        meter->batches[meter->last - 1].newer = number + 1;
    else
        meter->first = number + 1;
    meter->last = number + 1;
    return batch;
}

static void unlink_batch(struct mica_meter *meter, struct mica_batch *batch)
{
    *(batch->older ? &meter->batches[batch->older - 1].newer : &meter->first) = batch->newer;
    *(batch->newer ? &meter->batches[batch->newer - 1].older : &meter->last) = batch->older;
}

/* The batch is over, whatever is known of it. Lock held. */
static void retire(struct mica_meter *meter, struct mica_batch *batch)
{
    account(meter->gpu, -batch->budget, -1, -batch->spread);
    if (batch->unknown)
        atomic_fetch_sub(&mica_meter_unknown[meter->gpu], 1);
    unlink_batch(meter, batch);
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
                retire(meter, &meter->batches[b]);
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
        retire(meter, batch);
    }
    mica_release(&meter->lock);
}

static void prepare(struct mica_meter *meter, struct mica_batch *batch, const struct mica_opening *opening)
{
    const int64_t mean = opening->estimate > 0 ? opening->estimate : 1;
    int64_t buys = opening->budget / mean;
    buys = buys < 1 ? 1 : buys > opening->limit ? opening->limit : buys;
    uint64_t turn = (atomic_load(&batch->word) & ~(MICA_WORD_TURN - 1)) + MICA_WORD_TURN;
    atomic_store(&batch->stream, opening->stream);
    batch->limit = opening->limit;
    batch->budget = opening->budget;
    batch->spread = atomic_load_explicit(&mica_shapes[opening->shape].spread, memory_order_relaxed) * buys;
    batch->unknown = opening->unknown;
    batch->late = batch->blind = false;
    batch->seen = 0;
    batch->paid = batch->begun = 0;
    batch->shapes[0] = opening->shape;
    atomic_store(&batch->sent, 0);
    atomic_store(&batch->state, OPEN);
    atomic_store_explicit(&batch->word,
                          turn | MICA_WORD_ENTER | (uint64_t)(opening->limit - 1) * MICA_WORD_LAUNCH
                              | (uint64_t)(opening->budget - opening->estimate),
                          memory_order_release);
    atomic_fetch_sub_explicit(&mica_region->gpus[meter->gpu].balance, opening->budget, memory_order_relaxed);
    account(meter->gpu, opening->budget, 1, batch->spread);
    if (opening->unknown)
        atomic_fetch_add(&mica_meter_unknown[meter->gpu], 1);
    atomic_fetch_add(&meter->unsettled, 1);
}

int mica_meter_open(struct mica_meter *meter, const struct mica_opening *opening)
{
    const size_t place = mica_meter_place(opening->stream);
    int mode = relax();
    mica_acquire(&meter->lock);
    struct mica_batch *batch = next_batch(meter);
    if (batch)
        prepare(meter, batch, opening);
    mica_release(&meter->lock);
    if (batch && mica_gate_revoked(meter->gpu)) { /* asked after the batch was counted: the arbiter does the opposite */
        cancel(meter, batch);
        mica_meter_restore(mode);
        return MICA_METER_REVOKED;
    }
    if (batch) {
        /* Outside the lock: a full queue of the driver may make this wait. */
        batch->before = mica_now();
        if (mica_real.cuEventRecord(batch->begin, opening->stream)) {
            cancel(meter, batch);
            batch = NULL;
        } else {
            batch->recorded = mica_now();
        }
    }
    mica_meter_restore(mode);
    if (!batch)
        return -1;
    const int number = (int)(batch - meter->batches);
    int none = 0;
    if (opening->limit > 1)
        atomic_compare_exchange_strong(&meter->open[place], &none, number + 1);
    mica_helper_wake();
    return number;
}

/* True when an older batch of the same stream still runs; a stream is in order. */
static bool behind(const CUstream busy[], int count, CUstream stream)
{
    for (int i = 0; i < count; i++)
        if (busy[i] == stream)
            return true;
    return false;
}

/* Charge for time that the batch ran: it was charged its budget in advance. */
static void pay(struct mica_meter *meter, struct mica_batch *batch, int64_t ns)
{
    const int64_t before = batch->paid > batch->budget ? batch->paid : batch->budget;
    batch->paid += ns;
    if (batch->paid > before)
        atomic_fetch_sub(&mica_region->gpus[meter->gpu].balance, batch->paid - before);
    mica_ledger_busy(meter->gpu, (uint64_t)ns);
}

/* raw: its length, -1 when nothing was measured. */
static void settle(struct mica_meter *meter, struct mica_batch *batch, int64_t raw)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[meter->gpu];
    unsigned count = batch->limit - MICA_WORD_LAUNCHES(atomic_load(&batch->word));
    if (raw < 0 && batch->paid < batch->budget)
        pay(meter, batch, batch->budget - batch->paid); /* the estimate stands */
    if (batch->paid < batch->budget)
        atomic_fetch_add(&gpu->balance, batch->budget - batch->paid);
    atomic_fetch_add_explicit(&gpu->launches, count, memory_order_relaxed);
    if (raw >= 0 && !batch->late)
        mica_shapes_learn(batch->shapes, count, batch->paid > raw / 16 ? batch->paid : raw / 16);
    retire(meter, batch);
}

/* A batch that runs or is over. */
struct stretch {
    struct mica_batch *batch;
    int64_t begin, end;
    bool over;
};

/* Lock held. What can be said of the batch now; false when it waits or nothing can be measured. */
static bool look(struct mica_meter *meter, struct mica_batch *batch, CUresult done, struct stretch *out)
{
    *out = (struct stretch){.batch = batch, .end = (int64_t)mica_now(), .over = done != MICA_CUDA_NOT_READY};
    return out->over ? !done && !batch->blind && mica_meter_over(meter, batch, &out->begin, &out->end)
                     : mica_meter_begun(meter, batch, &out->begin);
}

/* Lock held. In the order of their beginnings: what began before the watermark and was not charged then is lost. Also charges what still runs, so that
 * a long launch beside short ones, which end while it runs, keeps its time. */
static void settle_all(struct mica_meter *meter)
{
    CUstream busy[MICA_BATCHES];
    struct stretch found[MICA_BATCHES], one;
    int streams = 0, count = 0;
    for (int at = meter->first, next; at; at = next) {
        struct mica_batch *batch = &meter->batches[at - 1];
        CUstream stream = atomic_load(&batch->stream);
        next = batch->newer;
        if (atomic_load_explicit(&batch->state, memory_order_acquire) != PENDING || behind(busy, streams, stream))
            continue;
        CUresult done = mica_real.cuEventQuery(batch->end);
        if (done == MICA_CUDA_NOT_READY)
            busy[streams++] = stream;
        if (!look(meter, batch, done, &one)) {
            if (one.over)
                settle(meter, batch, -1);
            continue;
        }
        int place = count++;
        for (; place > 0 && found[place - 1].begin > one.begin; place--)
            found[place] = found[place - 1];
        found[place] = one;
    }
    for (int i = 0; i < count; i++) {
        const struct stretch *s = &found[i];
        pay(meter, s->batch, mica_meter_claim(meter->gpu, s->begin, s->end));
        if (s->over)
            settle(meter, s->batch, s->end > s->begin ? s->end - s->begin : 0);
    }
}

void mica_meter_settle(struct mica_meter *meter)
{
    if (!mica_meter_unsettled(meter) || meter->gpu < 0 || !mica_try(&meter->lock))
        return;
    int mode = relax();
    settle_all(meter);
    mica_meter_restore(mode);
    mica_release(&meter->lock);
}

void mica_meter_serve(struct mica_meter *meter, bool close)
{
    CUcontext old, context = atomic_load(&meter->context);
    if (!context || !mica_meter_unsettled(meter) || meter->gpu < 0 || !mica_try(&meter->lock))
        return;
    context = atomic_load(&meter->context); /* a context is forgotten under the lock before it is destroyed */
    if (context && mica_real.cuCtxPushCurrent_v2 && mica_real.cuCtxPopCurrent_v2 && mica_real.cuCtxPushCurrent_v2(context) == 0) {
        if (close)
            mica_meter_close(meter, true);
        settle_all(meter);
        (void)mica_real.cuCtxPopCurrent_v2(&old);
    }
    mica_release(&meter->lock);
}
