/* Charging for what ran: batches that are over, and those that still run. */
#include "gate.h"
#include "work.h"

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
    const unsigned unused = MICA_WORD_LAUNCHES(atomic_load(&batch->word)), launched = batch->limit - unused;
    unsigned count = launched;
    if (raw < 0 && batch->paid < batch->budget)
        pay(meter, batch, batch->budget - batch->paid); /* the estimate stands */
    if (batch->paid < batch->budget)
        atomic_fetch_add(&gpu->balance, batch->budget - batch->paid);
    if (batch->passes && !unused) { /* it stands for those that came after it */
        mica_ledger_busy(meter->gpu, (uint64_t)(batch->paid * batch->passes / (int64_t)count));
        count += (unsigned)batch->passes;
    }
    atomic_fetch_add_explicit(&gpu->launches, count, memory_order_relaxed);
    for (unsigned failed = atomic_load(&batch->failed), i = 0; i < failed && i < launched; i++)
        batch->shapes[unused + i] = MICA_SHAPE_NONE; /* which one does not matter when all are of one shape, and hardly otherwise */
    if (raw >= 0 && !mica_meter_late(batch))
        mica_shapes_learn(batch->shapes + unused, launched, batch->paid > raw / 16 ? batch->paid : raw / 16);
    mica_meter_retire(batch);
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
        CUstream stream = batch->stream;
        next = batch->newer;
        if (atomic_load_explicit(&batch->state, memory_order_acquire) != MICA_BATCH_PENDING || behind(busy, streams, stream))
            continue;
        CUresult done = batch->quiet ? mica_meter_observe(meter, batch) : mica_real.cuEventQuery(batch->end);
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
    int mode = mica_meter_relax_if_captured();
    if (!atomic_load(&meter->resting))
        settle_all(meter);
    mica_meter_restore(mode);
    mica_release(&meter->lock);
}

void mica_meter_serve(struct mica_meter *meter, bool close)
{
    CUcontext old, context = atomic_load(&meter->context);
    if (!context || !mica_meter_unsettled(meter) || meter->gpu < 0 || !mica_try(&meter->lock))
        return;
    context = atomic_load(&meter->context);
    if (context && !atomic_load(&meter->resting) && mica_real.cuCtxPushCurrent_v2 && mica_real.cuCtxPopCurrent_v2 && mica_real.cuCtxPushCurrent_v2(context) == 0) {
        if (close)
            mica_meter_close(meter, MICA_CLOSE_AMONG, true);
        settle_all(meter);
        (void)mica_real.cuCtxPopCurrent_v2(&old);
    }
    mica_release(&meter->lock);
}
