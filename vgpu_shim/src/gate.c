/* See gate.h. */
#include "gate.h"

#include "meter.h"

enum {
    BURST_NS = 50000000,    /* wall time whose share may be saved up: long enough to cover late wake-ups of a busy host */
    MIN_REFILL_NS = 10000,  /* refilling more often only costs contention */
    MAX_DEBT_NS = 2000000000, /* GPU time; a region that somebody scribbled on cannot stop a program for long */
    MAX_UNSETTLED = 16,     /* measured launches under way per context while there is a cap */
    LONGEST_NAP_NS = 10000000
};

static _Atomic int captures;

void mica_gate_capture(int change)
{
    int now = atomic_fetch_add(&captures, change) + change;
    if (now < 0)
        atomic_store(&captures, 0);
}

void mica_gate_forget(CUcontext context)
{
    mica_meter_forget(context);
}

/* While any stream is captured, event calls of this thread could break the capture: only ask whether this one is. */
static bool capturing(CUstream stream)
{
    int status = 0;
    return mica_real.cuStreamIsCapturing && mica_real.cuStreamIsCapturing(stream, &status) == 0 && status != 0;
}

/* Add the share of the time that has passed. Whoever moves the stamp owns that time. */
static void refill(struct mica_region_gpu *gpu, uint64_t now, uint32_t cores)
{
    const int64_t burst = (int64_t)BURST_NS * cores / 100;
    uint64_t old = atomic_load_explicit(&gpu->refilled_at, memory_order_relaxed);
    if (old <= now && now - old < MIN_REFILL_NS)
        return;
    if (!atomic_compare_exchange_strong(&gpu->refilled_at, &old, now))
        return;
    uint64_t passed = old == 0 || old > now ? 0 : now - old; /* a stamp from the future: another boot, or scribble */
    int64_t add = passed > UINT64_C(100000000000) ? burst + MAX_DEBT_NS : (int64_t)(passed * cores / 100);
    int64_t balance = atomic_load(&gpu->balance), fresh;
    do {
        int64_t floor = balance < -(int64_t)MAX_DEBT_NS ? -(int64_t)MAX_DEBT_NS : balance;
        fresh = old == 0 ? burst : floor + add;
        fresh = fresh > burst ? burst : fresh;
    } while (!atomic_compare_exchange_weak(&gpu->balance, &balance, fresh));
}

/* Cap of a GPU: percent, 0 for none (also while limits are only reported). */
static uint32_t cap(int gpu)
{
    uint32_t cores = atomic_load_explicit(&mica_slice.cores[gpu], memory_order_relaxed);
    return cores >= 100 || !atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) ? 0 : cores;
}

static uint64_t nap(int64_t balance, uint32_t cores)
{
    if (balance > 0)
        return 100000; /* only waiting for launches to finish */
    uint64_t ns = (uint64_t)-balance * 100 / cores + 20000;
    return ns > LONGEST_NAP_NS ? LONGEST_NAP_NS : ns; /* wake up to settle, and to see new limits */
}

static void wait_for_balance(struct mica_meter *meter, uint64_t now, bool may_settle)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[meter->gpu];
    uint64_t start = now, waited_for_settling = 0;
    for (;;) {
        uint32_t cores = cap(meter->gpu);
        if (!cores)
            break;
        if (may_settle)
            mica_meter_settle(meter);
        refill(gpu, now, cores);
        int64_t balance = atomic_load(&gpu->balance);
        bool queue_full = may_settle && mica_meter_unsettled(meter) >= MAX_UNSETTLED;
        /* a kernel may wait for something that the program does only after this launch: go on after a second */
        if (balance > 0 && (!queue_full || waited_for_settling > UINT64_C(1000000000)))
            break;
        uint64_t ns = nap(balance, cores);
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
    launch->pair = -1;
    CUresult result = mica_slice_check();
    if (MICA_UNLIKELY(result))
        return result;
    struct mica_meter *meter = mica_meter_current();
    if (!meter || meter->gpu == MICA_GPU_NONE)
        return MICA_CUDA_SUCCESS; /* no context: the driver says so */
    if (meter->gpu == MICA_GPU_FOREIGN)
        return MICA_CUDA_NOT_PERMITTED;
    launch->stream = per_thread && !stream ? MICA_STREAM_PER_THREAD : stream;
    bool any_capture = MICA_UNLIKELY(atomic_load_explicit(&captures, memory_order_relaxed) > 0);
    if (any_capture && capturing(launch->stream))
        return MICA_CUDA_SUCCESS; /* becomes part of a graph; counted when the graph is launched */

    uint64_t now = mica_now();
    mica_slice_tick(now);
    if (cap(meter->gpu))
        wait_for_balance(meter, now, !any_capture);
    else if (!any_capture)
        mica_meter_settle(meter);

    struct mica_region_gpu *gpu = &mica_region->gpus[meter->gpu];
    launch->meter = meter;
    launch->gpu = meter->gpu;
    launch->estimate = mica_meter_estimate(key);
    atomic_fetch_sub_explicit(&gpu->balance, launch->estimate, memory_order_relaxed);
    atomic_fetch_add_explicit(&gpu->launches, 1, memory_order_relaxed);
    if (!any_capture && mica_meter_should(key, launch->estimate))
        launch->pair = mica_meter_begin(meter, launch->stream, key, launch->estimate);
    if (launch->pair >= 0)
        atomic_fetch_add_explicit(&gpu->inflight, launch->estimate, memory_order_relaxed);
    return MICA_CUDA_SUCCESS;
}

void mica_gate_end(struct mica_launch *launch, CUresult result)
{
    if (!launch->meter)
        return;
    if (launch->pair >= 0)
        mica_meter_end(launch->meter, launch->pair, launch->stream, result == 0);
    else if (!result)
        mica_ledger_busy(launch->gpu, (uint64_t)launch->estimate);
    if (result)
        atomic_fetch_add_explicit(&mica_region->gpus[launch->gpu].balance, launch->estimate, memory_order_relaxed);
}
