/* What a finished batch took. All intervals of a container, of whatever context and process, are laid on CLOCK_MONOTONIC and each stretch of it is
 * charged once: charge = max(0, end - max(begin, watermark)). That is the GPU time exactly while the container is alone on the card. */
#include "meter.h"

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

/* Host times of the batch's two events. An event cannot happen before it is recorded, and the host cannot see it before it has happened: these
 * bounds tie the event clock to ours, tightest when the stream was idle. */
static bool place(struct mica_meter *meter, struct mica_batch *batch, int64_t *begin, int64_t *end)
{
    const int64_t call = (int64_t)(batch->recorded - batch->before), before = (int64_t)batch->before;
    int64_t length;
    if (!since(batch->begin, batch->end, &length))
        return false;
    if (!meter->base || !since(meter->base, batch->begin, begin)) {
        swap(&meter->base, &batch->begin);
        meter->call_ns = call;
        meter->base_at = before + call;
        *begin = 0;
    }
    if (call < meter->call_ns)
        meter->call_ns = call;
    if (meter->base_at < before + meter->call_ns - *begin)
        meter->base_at = before + meter->call_ns - *begin;
    *end = *begin + length;
    const int64_t now = (int64_t)mica_now();
    if (meter->base_at > now - *end)
        meter->base_at = now - *end;
    const bool old = *end > REBASE_NS;
    const int64_t age = *end;
    *begin += meter->base_at;
    *end += meter->base_at;
    if (old) {
        swap(&meter->base, &batch->end);
        meter->base_at += age - DRIFT_NS;
    }
    return true;
}

/* Nanoseconds of [begin, end] after the watermark, which moves to the end. */
static int64_t claim(_Atomic uint64_t *watermark, int64_t begin, int64_t end)
{
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
    unsigned count = batch->limit - MICA_WORD_LAUNCHES(atomic_load(&batch->word));
    for (unsigned i = 0; i < count; i++)
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

int64_t mica_meter_measure(struct mica_meter *meter, struct mica_batch *batch, int64_t *raw)
{
    int64_t begin, end;
    if (!place(meter, batch, &begin, &end))
        return batch->budget;
    /* Nothing ran before the first launch was made: on an idle stream the begin event is early by what that took. */
    const int64_t recorded = (int64_t)batch->recorded, sent = (int64_t)atomic_load(&batch->sent);
    const int64_t first = sent && sent < recorded + FIRST_LAUNCH_NS ? sent : recorded + FIRST_LAUNCH_NS;
    begin = begin > first ? begin : first;
    if (batch->late && !batch->unknown) {
        const int64_t most = longest(batch);
        end = end - begin > most ? begin + most : end;
    }
    *raw = end > begin ? end - begin : 0;
    return end > begin ? claim(&mica_region->gpus[meter->gpu].watermark, begin, end) : 0;
}
