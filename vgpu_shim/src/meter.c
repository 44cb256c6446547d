/* See meter.h. */
#include "meter.h"

enum { FREE, OPEN, PENDING, CANCELLED };
enum { SHAPES = 4096, ALWAYS_MEASURED_NS = 100000, SAMPLE_EVERY = 16, FIRST_ESTIMATE_NS = 100000 };

static struct mica_meter meters[MICA_METERS];

/* What is known of each launch shape. Lost updates between threads only cost accuracy. */
static struct shape {
    _Atomic uint64_t key;
    _Atomic int64_t estimate;
    _Atomic uint32_t samples, launches;
} shapes[SHAPES];

static struct shape *shape_of(uint64_t key)
{
    key = key ? key : 1;
    size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 40) % SHAPES;
    for (int i = 0; i < 8; i++, at = (at + 1) % SHAPES) {
        uint64_t found = atomic_load_explicit(&shapes[at].key, memory_order_relaxed);
        if (!found && atomic_compare_exchange_strong(&shapes[at].key, &found, key))
            return &shapes[at];
        if (found == key)
            return &shapes[at];
    }
    return &shapes[at]; /* table crowded: shapes share an estimate */
}

int64_t mica_meter_estimate(uint64_t key)
{
    struct shape *shape = shape_of(key);
    int64_t estimate = atomic_load_explicit(&shape->estimate, memory_order_relaxed);
    return estimate ? estimate : FIRST_ESTIMATE_NS;
}

bool mica_meter_should(uint64_t key, int64_t estimate)
{
    struct shape *shape = shape_of(key);
    uint32_t launches = atomic_fetch_add_explicit(&shape->launches, 1, memory_order_relaxed);
    return estimate >= ALWAYS_MEASURED_NS || atomic_load_explicit(&shape->samples, memory_order_relaxed) < 4
        /* not every 16th: a program's own rhythm must not line up with ours */
        || (launches * UINT32_C(2654435761) >> 16) % SAMPLE_EVERY == 0;
}

static void learn(uint64_t key, int64_t measured)
{
    struct shape *shape = shape_of(key);
    int64_t old = atomic_load_explicit(&shape->estimate, memory_order_relaxed);
    uint32_t samples = atomic_fetch_add_explicit(&shape->samples, 1, memory_order_relaxed);
    int64_t fresh = samples == 0 ? measured : old + (measured - old) / 8;
    atomic_store_explicit(&shape->estimate, fresh > 500 ? fresh : 500, memory_order_relaxed);
}

struct mica_meter *mica_meter_current(void)
{
    static mica_lock lock;
    CUcontext context = NULL;
    if (!mica_real.cuCtxGetCurrent || mica_real.cuCtxGetCurrent(&context) || !context)
        return NULL;
    for (int i = 0; i < MICA_METERS; i++) {
        CUcontext owner = atomic_load_explicit(&meters[i].context, memory_order_acquire);
        if (owner == context)
            return &meters[i];
        if (!owner)
            break;
    }
    struct mica_meter *found = NULL, *unused = NULL;
    mica_acquire(&lock);
    for (int i = 0; i < MICA_METERS && !found; i++) {
        CUcontext owner = atomic_load(&meters[i].context);
        if (owner == context)
            found = &meters[i];
        else if (!owner && !unused)
            unused = &meters[i];
    }
    if (!found && unused) {
        unused->gpu = mica_gpu_current();
        atomic_store_explicit(&unused->context, context, memory_order_release);
        found = unused;
    }
    mica_release(&lock);
    return found;
}

void mica_meter_forget(CUcontext context)
{
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &meters[i];
        if (atomic_load(&meter->context) != context)
            continue;
        mica_acquire(&meter->lock);
        for (; meter->head != meter->tail; meter->head++) {
            struct mica_pair *pair = &meter->pairs[meter->head % MICA_PAIRS];
            if (pair->state != CANCELLED && meter->gpu >= 0)
                atomic_fetch_sub(&mica_region->gpus[meter->gpu].inflight, pair->estimate);
        }
        for (int p = 0; p < MICA_PAIRS; p++)
            meter->pairs[p] = (struct mica_pair){0}; /* the driver destroyed the events with the context */
        meter->last_end = NULL;
        /* Leaves a hole: meters behind it are found under the lock only, until it is filled. */
        atomic_store(&meter->context, NULL);
        mica_release(&meter->lock);
    }
}

static bool make_event(CUevent *event)
{
    return *event || (mica_real.cuEventCreate && mica_real.cuEventCreate(event, 0) == 0);
}

int mica_meter_begin(struct mica_meter *meter, CUstream stream, uint64_t key, int64_t estimate)
{
    int found = -1;
    mica_acquire(&meter->lock);
    struct mica_pair *pair = &meter->pairs[meter->tail % MICA_PAIRS];
    if (meter->tail - meter->head < MICA_PAIRS && make_event(&pair->begin) && make_event(&pair->end)
        && mica_real.cuEventRecord(pair->begin, stream) == 0) {
        pair->state = OPEN;
        pair->key = key;
        pair->estimate = estimate;
        found = (int)(meter->tail++ % MICA_PAIRS);
    }
    mica_release(&meter->lock);
    return found;
}

void mica_meter_end(struct mica_meter *meter, int number, CUstream stream, bool launched)
{
    mica_acquire(&meter->lock);
    struct mica_pair *pair = &meter->pairs[number];
    bool measured = launched && pair->state == OPEN && mica_real.cuEventRecord(pair->end, stream) == 0;
    if (pair->state == OPEN && !measured && meter->gpu >= 0)
        atomic_fetch_sub(&mica_region->gpus[meter->gpu].inflight, pair->estimate);
    if (pair->state == OPEN)
        pair->state = measured ? PENDING : CANCELLED;
    mica_release(&meter->lock);
}

/* Nanoseconds of the pair's interval that no earlier settled interval covers. */
static int64_t uncovered(struct mica_meter *meter, struct mica_pair *pair)
{
    float length = 0, begin = 0, end = 0;
    if (mica_real.cuEventElapsedTime(&length, pair->begin, pair->end))
        return pair->estimate; /* nothing measured: the estimate stands */
    if (meter->last_end && mica_real.cuEventElapsedTime(&begin, meter->last_end, pair->begin) == 0 && begin < 0
        && mica_real.cuEventElapsedTime(&end, meter->last_end, pair->end) == 0) {
        if (end <= 0)
            return 0; /* wholly inside; the later end stays the reference */
        length = end;
    }
    CUevent swap = meter->last_end;
    meter->last_end = pair->end;
    pair->end = swap;
    return (int64_t)((double)length * 1e6);
}

void mica_meter_settle(struct mica_meter *meter)
{
    if (meter->head == meter->tail || meter->gpu < 0 || !mica_try(&meter->lock))
        return;
    struct mica_region_gpu *gpu = &mica_region->gpus[meter->gpu];
    for (; meter->head != meter->tail; meter->head++) {
        struct mica_pair *pair = &meter->pairs[meter->head % MICA_PAIRS];
        if (pair->state == OPEN)
            break;
        if (pair->state == PENDING) {
            CUresult done = mica_real.cuEventQuery(pair->end);
            if (done == MICA_CUDA_NOT_READY)
                break;
            int64_t measured = done ? pair->estimate : uncovered(meter, pair);
            atomic_fetch_sub(&gpu->inflight, pair->estimate);
            atomic_fetch_add(&gpu->balance, pair->estimate - measured);
            mica_ledger_busy(meter->gpu, (uint64_t)measured);
            learn(pair->key, measured);
        }
        pair->state = FREE;
    }
    mica_release(&meter->lock);
}
