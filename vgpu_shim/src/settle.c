/* When batches ran. All intervals of a container, of whatever context and process, are laid on CLOCK_MONOTONIC and each stretch of it is charged
 * once: charge = max(0, end - max(begin, watermark)). That is the GPU time exactly while the container is alone on the card.
 * An event cannot happen before it is recorded, and the host cannot see it before it has happened: these bounds tie the event clock to ours,
 * tightest when the stream was idle. */
#include "gate.h"

enum {
    REBASE_NS = 200000000,   /* elapsed times are floats: a base this young keeps them exact to some ns */
    DRIFT_NS = 4000,         /* the two clocks may drift apart by this much meanwhile */
    FIRST_LAUNCH_NS = 10000, /* a first launch that returned later than this after its event was held up by something else */
    AHEAD_NS = 1000000000
};

static bool since(CUevent from, CUevent to, int64_t *ns)
{
    float ms = 0;
    if (mica_real.cuEventElapsedTime(&ms, from, to))
        return false;
    *ns = (int64_t)((double)ms * 1e6);
    return true;
}

static void swap(CUevent *a, CUevent *b)
{
    CUevent old = *a;
    *a = *b;
    *b = old;
}

bool mica_meter_begun(struct mica_meter *meter, struct mica_batch *batch, int64_t *begin)
{
    const int64_t call = (int64_t)(batch->recorded - batch->before), before = (int64_t)batch->before;
    int64_t since_base = 0;
    if (!batch->begun) {
        if (mica_real.cuEventQuery(batch->begin))
            return false;
        if (!meter->base || !since(meter->base, batch->begin, &since_base)) {
            swap(&meter->base, &batch->begin);
            meter->call_ns = call;
            meter->base_at = before + call;
        }
        if (call < meter->call_ns)
            meter->call_ns = call;
        if (meter->base_at < before + meter->call_ns - since_base)
            meter->base_at = before + meter->call_ns - since_base;
        batch->begun = meter->base_at + since_base;
    }
    /* Nothing ran before the first launch was made: on an idle stream the begin event is early by what that took. */
    const int64_t recorded = (int64_t)batch->recorded, sent = (int64_t)atomic_load(&batch->sent);
    const int64_t first = sent && sent < recorded + FIRST_LAUNCH_NS ? sent : recorded + FIRST_LAUNCH_NS;
    *begin = batch->begun > first ? batch->begun : first;
    return true;
}

/* Host time of an event that has happened. */
static bool end_of(struct mica_meter *meter, struct mica_batch *batch, int64_t *end)
{
    int64_t since_base;
    if (!meter->base || !since(meter->base, batch->end, &since_base))
        return false;
    const int64_t now = (int64_t)mica_now();
    if (meter->base_at > now - since_base)
        meter->base_at = now - since_base;
    *end = meter->base_at + since_base;
    if (since_base > REBASE_NS) {
        swap(&meter->base, &batch->end);
        meter->base_at += since_base - DRIFT_NS;
    }
    return true;
}

int64_t mica_meter_claim(int gpu, int64_t begin, int64_t end)
{
    _Atomic uint64_t *watermark = &mica_region->gpus[gpu].watermark;
    uint64_t seen = atomic_load(watermark);
    for (;;) {
        int64_t mark = (int64_t)seen > end + AHEAD_NS || (int64_t)seen < 0 ? 0 : (int64_t)seen; /* from another boot, or scribble */
        int64_t from = begin > mark ? begin : mark;
        if (from >= end)
            return 0;
        if (atomic_compare_exchange_weak(watermark, &seen, (uint64_t)end))
            return end - from;
    }
}

/* What the batch should take at the very most: its end was recorded some time after the last launch. */
static int64_t longest(const struct mica_batch *batch)
{
    int64_t mean = 0, spread = 0;
    for (unsigned i = MICA_WORD_LAUNCHES(atomic_load(&batch->word)); i < batch->limit; i++)
        if (batch->shapes[i] != MICA_SHAPE_NONE) {
            mean += mica_shape_mean(batch->shapes[i]);
            spread += atomic_load_explicit(&mica_shapes[batch->shapes[i]].spread, memory_order_relaxed);
        }
    int64_t sigma_us = 0;
    for (int64_t bit = INT64_C(1) << 30; bit; bit >>= 1) /* integer square root */
        if ((sigma_us + bit) * (sigma_us + bit) <= spread)
            sigma_us += bit;
    return 2 * mean + 4000 * sigma_us;
}

CUresult mica_meter_observe(struct mica_meter *meter, struct mica_batch *batch)
{
    struct mica_batch *next = batch;
    do {
        next = next->newer ? &meter->batches[next->newer - 1] : NULL;
    } while (next && next->stream != batch->stream);
    if (next) { /* in order: it is over when the next one begins */
        const bool recorded = atomic_load_explicit(&next->state, memory_order_acquire) == MICA_BATCH_PENDING;
        return recorded && mica_meter_begun(meter, next, &batch->observed) ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_READY;
    }
    if (mica_gate_captures()) /* asking could break one */
        return MICA_CUDA_NOT_READY;
    CUresult result = mica_real.cuStreamQuery(batch->stream);
    batch->observed = (int64_t)mica_now();
    return result;
}

bool mica_meter_over(struct mica_meter *meter, struct mica_batch *batch, int64_t *begin, int64_t *end)
{
    *end = batch->observed;
    if (!mica_meter_begun(meter, batch, begin) || (!batch->quiet && !end_of(meter, batch, end)))
        return false;
    if (mica_meter_late(batch) && !batch->unknown) {
        const int64_t most = longest(batch);
        *end = *end - *begin > most ? *begin + most : *end;
    }
    return true;
}
