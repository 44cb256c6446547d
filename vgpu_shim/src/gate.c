/* See gate.h. */
#include "gate.h"

#include "lease.h"

enum {
    BURST_NS = 50000000,    /* wall time whose share may be saved up: long enough to cover late wake-ups of a busy host */
    MIN_REFILL_NS = 10000,  /* refilling more often only costs contention */
    SLACK_NS = 2000000000,  /* GPU time of debt that nothing in the region has to explain */
    STALE_NS = 1000000000,  /* a clock reading may be this much older than another thread's */
    BATCH_NS = 2000000,     /* of estimated work between two looks at the balance */
    FREE_BATCH_NS = 10000000,
    PASS_NS = 1000000, /* a batch that takes less may stand for fifteen more */
    DEEP_NS = 45000000,     /* in flight at most while there is a cap or an arbiter: what a newcomer may have to wait */
    SPREAD_US2 = 400000000, /* (20 ms)²: how far what is in flight may be off its mean, as a variance */
    SHORTEST_NAP_NS = 20000,
    SETTLING_NAP_NS = 500000, /* while launches of ours run, whose true cost may be lower than what was charged */
    LONGEST_NAP_NS = 10000000,
    TURN_NAP_NS = 1000000 /* while it is another's turn: the arbiter must see that we still wait */
};

/* An error is the legacy stream while another one is captured: nothing of ours may be added to it. */
static bool untouchable(CUstream stream)
{
    int status = 0;
    return !mica_real.cuThreadExchangeStreamCaptureMode
        || (mica_real.cuStreamIsCapturing && mica_real.cuStreamIsCapturing(stream, &status));
}

void mica_gate_forked(void)
{
    mica_captures_forked();
    mica_meter_forked();
}

/* Debt is what was used and not yet paid for, so it cannot be more than all that was used: more than that is scribble. */
static int64_t lowest(struct mica_region_gpu *gpu)
{
    uint64_t busy = atomic_load_explicit(&gpu->busy, memory_order_relaxed);
    return -(int64_t)(busy > INT64_MAX / 4 ? INT64_MAX / 4 : busy) - SLACK_NS;
}

/* Add the share of the time that has passed. Whoever moves the stamp owns that time. What a turn allowed beyond the cap because others left it is no debt. */
static void refill(struct mica_region_gpu *gpu, uint64_t now, uint32_t cores, bool turn)
{
    const int64_t burst = (int64_t)BURST_NS * cores / 100;
    uint64_t old = atomic_load_explicit(&gpu->refilled_at, memory_order_relaxed);
    if (old <= now ? now - old < MIN_REFILL_NS : old - now < STALE_NS)
        return;
    if (!atomic_compare_exchange_strong(&gpu->refilled_at, &old, now))
        return;
    uint64_t passed = old == 0 || old > now ? 0 : now - old; /* a stamp from the future: another boot, or scribble */
    int64_t add = (int64_t)(passed > INT64_MAX / 400 ? INT64_MAX / 4 : passed * cores / 100);
    const bool given = turn && atomic_load_explicit(&gpu->policy, memory_order_relaxed) == MICA_POLICY_CONSERVING;
    int64_t balance = atomic_load(&gpu->balance), fresh, floor = given ? -burst : lowest(gpu);
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

/* A launch that asks to be let through. */
struct request {
    const struct mica_meter *meter; /* NULL: nothing can be measured */
    int gpu;
    uint16_t shape;
    bool unknown;
    int64_t estimate, budget;
    int64_t needed; /* balance to go on with: more once it had to wait, or it would go on one launch at a time */
    uint64_t now;
};

enum verdict {
    GO,
    WAIT_TURN,    /* another container's */
    WAIT_BALANCE, /* the cap */
    WAIT_WORK     /* enough is in flight */
};

bool mica_gate_revoked(int gpu)
{
    return atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed) && mica_lease_rest(gpu, mica_now()) == 0;
}

/* What is in flight may end later than its mean says; shapes that nobody knows go one at a time. */
static bool deep(const struct request *request, int64_t most)
{
    int64_t inflight = atomic_load_explicit(&mica_region->gpus[request->gpu].inflight, memory_order_relaxed);
    if (inflight <= 0)
        return false;
    if (request->meter && mica_meter_unsettled(request->meter) >= MICA_BATCHES)
        return true;
    return inflight > most - request->estimate / 2 || (request->unknown && atomic_load_explicit(&mica_meter_unknown[request->gpu], memory_order_relaxed) > 0)
        || atomic_load_explicit(&mica_meter_spread[request->gpu], memory_order_relaxed) > SPREAD_US2;
}

static int64_t at_least(int64_t budget, int64_t estimate)
{
    budget = budget > estimate ? budget : estimate;
    return budget > (int64_t)MICA_WORD_LEFT ? (int64_t)MICA_WORD_LEFT : budget;
}

static enum verdict by_balance(struct request *request, uint32_t cores)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[request->gpu];
    refill(gpu, request->now, cores, false);
    int64_t balance = atomic_load(&gpu->balance);
    request->budget = balance < BATCH_NS ? balance : BATCH_NS;
    if (balance < request->needed) {
        request->needed = (int64_t)BURST_NS / 8 * cores / 100;
        return WAIT_BALANCE;
    }
    return deep(request, DEEP_NS) ? WAIT_WORK : GO;
}

/* Decide, and say how much may be launched before the next question. */
static enum verdict judge(struct request *request)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[request->gpu];
    const bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed);
    const int64_t rest = enforce ? mica_lease_rest(request->gpu, request->now) : MICA_LEASE_OPEN;
    const uint32_t cores = cap(request->gpu);
    enum verdict verdict = GO;
    request->budget = FREE_BATCH_NS;
    if (rest == 0)
        return WAIT_TURN;
    if (rest != MICA_LEASE_OPEN) {
        if (cores)
            refill(gpu, request->now, cores, true); /* goes on, for the time after the turns */
        verdict = deep(request, rest) ? WAIT_WORK : GO;
        request->budget = rest < BATCH_NS ? rest : BATCH_NS;
    } else if (cores) {
        verdict = by_balance(request, cores);
    } else {
        if (atomic_load_explicit(&gpu->refilled_at, memory_order_relaxed))
            atomic_store(&gpu->refilled_at, 0); /* what is used without a cap is no debt when a cap comes */
        if (enforce && mica_lease_arbiter(request->now)) {
            verdict = deep(request, DEEP_NS) ? WAIT_WORK : GO;
            request->budget = BATCH_NS;
        }
    }
    request->budget = at_least(request->unknown ? 0 : request->budget, request->estimate);
    return verdict;
}

static uint64_t within(int64_t ns, uint64_t shortest, uint64_t longest)
{
    return ns < (int64_t)shortest ? shortest : (uint64_t)ns > longest ? longest : (uint64_t)ns;
}

/* Sleep until the answer may be another one. */
static void pause_for(enum verdict verdict, const struct request *request, struct mica_meter *meter)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[request->gpu];
    const bool settling = meter && mica_meter_unsettled(meter);
    if (verdict != WAIT_BALANCE)
        atomic_store_explicit(&gpu->waiting_at, request->now, memory_order_relaxed);
    if (verdict == WAIT_TURN) {
        mica_lease_wait(request->gpu, TURN_NAP_NS);
    } else if (verdict == WAIT_WORK) {
        mica_sleep(within(atomic_load(&gpu->inflight) / 4, SHORTEST_NAP_NS, SETTLING_NAP_NS));
    } else {
        const uint32_t cores = cap(request->gpu);
        const int64_t balance = atomic_load(&gpu->balance);
        const int64_t missing = request->needed - balance;
        const int64_t ns = missing > LONGEST_NAP_NS || !cores ? LONGEST_NAP_NS : missing * 100 / cores + SHORTEST_NAP_NS;
        mica_sleep(within(ns, SHORTEST_NAP_NS, settling ? SETTLING_NAP_NS : LONGEST_NAP_NS));
    }
}

static void wait_for_go(struct request *request, struct mica_meter *meter)
{
    const uint64_t start = request->now;
    uint64_t working = 0;
    bool closed = mica_gate_captures() > 0;
    for (;;) {
        enum verdict verdict = judge(request);
        /* a kernel may wait for something that the program does only after this launch: go on after a second */
        if (verdict == GO || (verdict == WAIT_WORK && working > UINT64_C(1000000000)))
            break;
        if (meter) {
            if (!closed) /* while we wait nothing is added to them */
                mica_meter_close(meter, MICA_CLOSE_AMONG, false);
            closed = true;
            mica_meter_settle(meter);
            if (judge(request) == GO)
                break;
        }
        pause_for(verdict, request, meter);
        uint64_t now = mica_now();
        working += verdict == WAIT_WORK ? now - request->now : 0;
        request->now = now;
        mica_slice_tick(now);
    }
    if (request->now != start)
        atomic_fetch_add_explicit(&mica_region->gpus[request->gpu].throttled, request->now - start, memory_order_relaxed);
}

/* Launches that may follow a full batch without asking: none while a GPU of this process has a cap or is not ours, or an arbiter is there. */
static int passes(const struct request *request)
{
    if (request->estimate >= PASS_NS / MICA_BATCH_LAUNCHES || mica_lease_arbiter(request->now))
        return 0;
    for (int d = 0; d < mica_slice.device_count; d++)
        if (mica_slice.gpu_of_device[d] < 0 || cap(mica_slice.gpu_of_device[d]))
            return 0;
    return 15 * MICA_BATCH_LAUNCHES;
}

/* A launch that nobody's batch takes: asks, and opens one. */
static void ask(struct mica_launch *launch, struct mica_meter *meter, CUstream stream, uint16_t shape, bool single)
{
    struct request request = {.meter = meter, .gpu = launch->gpu, .shape = shape, .unknown = !mica_shape_known(shape), .estimate = launch->estimate, .needed = 1};
    struct mica_region_gpu *gpu = &mica_region->gpus[launch->gpu];
    if (meter)
        mica_meter_close_stream(meter, stream); /* before we wait: it ends with its last launch */
    request.now = mica_now();
    mica_slice_tick(request.now);
    if (meter && mica_meter_unsettled(meter) > MICA_BATCHES / 2)
        mica_meter_settle(meter);
    bool revoked = false;
    do {
        wait_for_go(&request, meter);
        if (!meter)
            break;
        const struct mica_opening opening = {.stream = stream,
                                             .shape = shape,
                                             .unknown = request.unknown,
                                             .limit = request.unknown || single ? 1 : MICA_BATCH_LAUNCHES,
                                             .estimate = request.estimate,
                                             .passes = request.unknown || single ? 0 : passes(&request),
                                             .budget = single ? request.estimate : request.budget};
        launch->batch = mica_meter_open(meter, &opening, &revoked);
    } while (revoked);
    int64_t inflight = atomic_load_explicit(&gpu->inflight, memory_order_relaxed);
    atomic_store_explicit(&gpu->active_at, request.now, memory_order_relaxed);
    atomic_store_explicit(&gpu->inflight_until, request.now + (inflight > 0 ? (uint64_t)inflight : 0), memory_order_relaxed);
    if (!launch->batch) {
        atomic_fetch_sub_explicit(&gpu->balance, launch->estimate, memory_order_relaxed);
        atomic_fetch_add_explicit(&gpu->launches, 1, memory_order_relaxed);
    }
}

struct mica_batch *mica_gate_join(uint64_t key, CUstream stream)
{
    uintptr_t handle = (uintptr_t)stream;
    if (MICA_UNLIKELY(atomic_load_explicit(&mica_slice_state, memory_order_acquire) != 1 || mica_gate_captures()))
        return NULL;
    if (MICA_UNLIKELY(!mica_meter_explicit(stream))) {
        int gpu;
        struct mica_meter *meter = mica_meter_current(&gpu);
        if (!meter || gpu < 0)
            return NULL;
        handle = mica_meter_handle(meter, stream);
    }
    const uint16_t shape = mica_shape_of(key);
    return mica_meter_join(handle, shape, mica_shape_mean(shape), 0);
}

CUresult mica_gate_begin(struct mica_launch *launch, uint64_t key, CUstream stream)
{
    int number;
    launch->gpu = MICA_GPU_NONE;
    launch->batch = NULL;
    CUresult result = mica_slice_check();
    if (MICA_UNLIKELY(result))
        return result;
    struct mica_meter *meter = mica_meter_current(&number);
    if (MICA_UNLIKELY(number < 0)) /* without a context the driver says so */
        return number == MICA_GPU_FOREIGN ? mica_slice_foreign(MICA_CUDA_NOT_PERMITTED) : MICA_CUDA_SUCCESS;
    bool single = stream == MICA_STREAM_PER_THREAD; /* to the helper, and to other threads, the name means a stream of their own */
    if (single)
        atomic_store_explicit(&mica_meter_blocking, 1, memory_order_relaxed);
    if (MICA_UNLIKELY(mica_gate_captures() > 0)) {
        if (mica_gate_capturing(stream))
            return MICA_CUDA_SUCCESS; /* becomes part of a graph; counted when the graph is launched */
        if (untouchable(stream))
            meter = NULL; /* event calls could break the capture */
        single = true;
    }
    const uint16_t shape = mica_shape_of(key);
    launch->gpu = number;
    launch->estimate = mica_shape_mean(shape);
    ask(launch, meter, stream, shape, single);
    return MICA_CUDA_SUCCESS;
}

void mica_gate_end(struct mica_launch *launch, CUresult result)
{
    if (launch->gpu < 0)
        return;
    if (launch->batch) {
        atomic_store(&launch->batch->sent, mica_now()); /* it was the first in it */
        mica_meter_leave(launch->batch, result == 0);
    } else if (result) {
        atomic_fetch_add_explicit(&mica_region->gpus[launch->gpu].balance, launch->estimate, memory_order_relaxed);
    } else {
        mica_ledger_busy(launch->gpu, (uint64_t)launch->estimate);
    }
}

/* The current context's meter, where there is something to close or settle. */
static struct mica_meter *under_way(void)
{
    int number;
    if (atomic_load_explicit(&mica_slice_state, memory_order_acquire) != 1 || mica_gate_captures())
        return NULL;
    struct mica_meter *meter = mica_meter_current(&number);
    return meter && number >= 0 && mica_meter_unsettled(meter) ? meter : NULL;
}

void mica_gate_sync(bool all)
{
    struct mica_meter *meter = under_way();
    if (meter)
        mica_meter_close(meter, all ? MICA_CLOSE_HERE : MICA_CLOSE_AMONG, false);
}

void mica_gate_synced(void)
{
    struct mica_meter *meter = under_way();
    if (meter)
        mica_meter_settle(meter);
}

uint64_t mica_gate_pace(int gpu, uint64_t now, uint64_t brisk, uint64_t calm, uint64_t leisure)
{
    struct mica_region_gpu *card = &mica_region->gpus[gpu];
    const bool enforce = atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed);
    if (!enforce || (!cap(gpu) && !mica_lease_arbiter(now)))
        return leisure;
    if (mica_lease_rest(gpu, now) == MICA_LEASE_OPEN)
        return calm;
    const uint64_t until = atomic_load_explicit(&card->inflight_until, memory_order_relaxed);
    return until > now ? within((int64_t)(until - now), brisk, calm) : brisk;
}
