/* See gate.h. */
#include "gate.h"

#include "meter.h"

enum {
    BURST_NS = 50000000,    /* wall time whose share may be saved up: long enough to cover late wake-ups of a busy host */
    MIN_REFILL_NS = 10000,  /* refilling more often only costs contention */
    SLACK_NS = 2000000000,  /* GPU time of debt that nothing in the region has to explain */
    STALE_NS = 1000000000,  /* a clock reading may be this much older than another thread's */
    MAX_UNSETTLED = 16,     /* measured launches under way per context while there is a cap */
    SETTLING_NAP_NS = 500000, /* while launches of ours run, whose true cost may be lower than what was charged */
    LONGEST_NAP_NS = 10000000
};

static _Atomic int captures;

/* An error is the legacy stream while another one is captured: nothing of ours may be added to it. */
static bool untouchable(CUstream stream)
{
    int status = 0;
    return !mica_real.cuThreadExchangeStreamCaptureMode
        || (mica_real.cuStreamIsCapturing && mica_real.cuStreamIsCapturing(stream, &status));
}

bool mica_gate_capturing(CUstream stream)
{
    int status = 0;
    return mica_driver() && mica_real.cuStreamIsCapturing && mica_real.cuStreamIsCapturing(stream, &status) == 0 && status;
}

void mica_gate_capture(int change)
{
    atomic_fetch_add(&captures, change);
}

void mica_gate_forget(CUcontext context)
{
    mica_meter_forget(context);
}

void mica_gate_forked(void)
{
    atomic_store(&captures, 0);
    mica_meter_forked();
}

/* Debt is what was used and not yet paid for, so it cannot be more than all that was used: more than that is scribble. */
static int64_t lowest(struct mica_region_gpu *gpu)
{
    uint64_t busy = atomic_load_explicit(&gpu->busy, memory_order_relaxed);
    return -(int64_t)(busy > INT64_MAX / 4 ? INT64_MAX / 4 : busy) - SLACK_NS;
}

/* Add the share of the time that has passed. Whoever moves the stamp owns that time. */
static void refill(struct mica_region_gpu *gpu, uint64_t now, uint32_t cores)
{
    const int64_t burst = (int64_t)BURST_NS * cores / 100;
    uint64_t old = atomic_load_explicit(&gpu->refilled_at, memory_order_relaxed);
    if (old <= now ? now - old < MIN_REFILL_NS : old - now < STALE_NS)
        return;
    if (!atomic_compare_exchange_strong(&gpu->refilled_at, &old, now))
        return;
    uint64_t passed = old == 0 || old > now ? 0 : now - old; /* a stamp from the future: another boot, or scribble */
    int64_t add = (int64_t)(passed > INT64_MAX / 400 ? INT64_MAX / 4 : passed * cores / 100);
    int64_t balance = atomic_load(&gpu->balance), fresh, floor = lowest(gpu);
    do {
        fresh = old == 0 ? burst : (balance < floor ? floor : balance > burst ? burst : balance) + add;
        fresh = fresh > burst ? burst : fresh;
    } while (!atomic_compare_exchange_weak(&gpu->balance, &balance, fresh));
}

/* Cap of a GPU: percent, 0 for none (also while limits are only reported). */
static uint32_t cap(int gpu)
{
    uint32_t cores = atomic_load_explicit(&mica_slice.cores[gpu], memory_order_relaxed);
    return cores >= 100 || !atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) ? 0 : cores;
}

static uint64_t nap(int64_t balance, uint32_t cores, bool settling)
{
    if (balance > 0)
        return 100000; /* only waiting for launches to finish */
    const uint64_t longest = settling ? SETTLING_NAP_NS : LONGEST_NAP_NS; /* wake up to settle, and to see new limits */
    if (balance < -LONGEST_NAP_NS)
        return longest;
    uint64_t ns = (uint64_t)-balance * 100 / cores + 20000;
    return ns > longest ? longest : ns;
}

/* meter: NULL when nothing can be measured. */
static void wait_for_balance(int number, struct mica_meter *meter, uint64_t now)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[number];
    uint64_t start = now, waited_for_settling = 0;
    for (;;) {
        uint32_t cores = cap(number);
        if (!cores)
            break;
        if (meter)
            mica_meter_settle(meter);
        refill(gpu, now, cores);
        int64_t balance = atomic_load(&gpu->balance);
        uint32_t unsettled = meter ? mica_meter_unsettled(meter) : 0;
        /* a kernel may wait for something that the program does only after this launch: go on after a second */
        if (balance > 0 && (unsettled < MAX_UNSETTLED || waited_for_settling > UINT64_C(1000000000)))
            break;
        uint64_t ns = nap(balance, cores, unsettled > 0);
        mica_sleep(ns);
        waited_for_settling += balance > 0 ? ns : 0;
        now = mica_now();
        mica_slice_tick(now);
    }
    if (now != start)
        atomic_fetch_add_explicit(&gpu->throttled, now - start, memory_order_relaxed);
}

CUresult mica_gate_begin(struct mica_launch *launch, uint64_t key, CUstream stream, bool per_thread)
{
    launch->meter = NULL;
    launch->gpu = MICA_GPU_NONE;
    launch->pair = -1;
    CUresult result = mica_slice_check();
    if (MICA_UNLIKELY(result))
        return result;
    int number;
    struct mica_meter *meter = mica_meter_current(&number);
    if (number == MICA_GPU_NONE)
        return MICA_CUDA_SUCCESS; /* no context: the driver says so */
    if (number == MICA_GPU_FOREIGN)
        return mica_slice_foreign(MICA_CUDA_NOT_PERMITTED);
    stream = per_thread && !stream ? MICA_STREAM_PER_THREAD : stream;
    if (MICA_UNLIKELY(atomic_load_explicit(&captures, memory_order_relaxed) > 0)) {
        if (mica_gate_capturing(stream))
            return MICA_CUDA_SUCCESS; /* becomes part of a graph; counted when the graph is launched */
        if (untouchable(stream))
            meter = NULL; /* event calls could break the capture */
    }

    uint64_t now = mica_now();
    struct mica_region_gpu *gpu = &mica_region->gpus[number];
    mica_slice_tick(now);
    if (cap(number)) {
        wait_for_balance(number, meter, now);
    } else {
        if (atomic_load_explicit(&gpu->refilled_at, memory_order_relaxed))
            atomic_store(&gpu->refilled_at, 0); /* what is used without a cap is no debt when a cap comes */
        if (meter)
            mica_meter_settle(meter);
    }

    launch->meter = meter;
    launch->gpu = number;
    launch->estimate = mica_meter_estimate(key);
    atomic_fetch_sub_explicit(&gpu->balance, launch->estimate, memory_order_relaxed);
    atomic_fetch_add_explicit(&gpu->launches, 1, memory_order_relaxed);
    if (meter && mica_meter_should(key, launch->estimate))
        launch->pair = mica_meter_begin(meter, stream, key, launch->estimate);
    return MICA_CUDA_SUCCESS;
}

void mica_gate_end(struct mica_launch *launch, CUresult result)
{
    if (launch->gpu < 0)
        return;
    if (launch->pair >= 0)
        mica_meter_end(launch->meter, launch->pair, result == 0);
    else if (!result)
        mica_ledger_busy(launch->gpu, (uint64_t)launch->estimate);
    if (result)
        atomic_fetch_add_explicit(&mica_region->gpus[launch->gpu].balance, launch->estimate, memory_order_relaxed);
}
