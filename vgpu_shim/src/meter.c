/* See meter.h. */
#include "meter.h"

enum { FREE, OPEN, PENDING };
enum {
    SHAPES = 4096,
    ALWAYS_MEASURED_NS = 100000,
    SAMPLE_EVERY = 16,
    FIRST_ESTIMATE_NS = 5000000, /* of a shape nobody has measured: too much on purpose, the rest is given back when it has */
    BUSY_STREAMS = 8,
    CAPTURE_RELAXED = 2
};

static struct mica_meter meters[MICA_METERS];
static mica_lock table_lock;

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

struct mica_meter *mica_meter_current(int *gpu)
{
    CUcontext context = NULL;
    *gpu = MICA_GPU_NONE;
    if (!mica_real.cuCtxGetCurrent || mica_real.cuCtxGetCurrent(&context) || !context)
        return NULL;
    struct mica_meter *found = NULL, *unused = NULL;
    for (int i = 0; i < MICA_METERS && !found; i++) {
        CUcontext owner = atomic_load_explicit(&meters[i].context, memory_order_acquire);
        if (owner == context)
            found = &meters[i];
        else if (!owner)
            break;
    }
    if (!found) {
        mica_acquire(&table_lock);
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
        mica_release(&table_lock);
    }
    *gpu = found ? found->gpu : mica_gpu_current(); /* the budget is the GPU's, whether there is a meter or not */
    return found;
}

static void empty(struct mica_meter *meter)
{
    for (int p = 0; p < MICA_PAIRS; p++)
        meter->pairs[p] = (struct mica_pair){0}; /* the driver destroys the events with the context */
    meter->head = meter->tail = 0;
    meter->last_begin = meter->last_end = NULL;
    atomic_store(&meter->unsettled, 0);
    /* Leaves a hole: meters behind it are found under the lock only, until it is filled. */
    atomic_store(&meter->context, NULL);
}

void mica_meter_forget(CUcontext context)
{
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &meters[i];
        if (atomic_load(&meter->context) != context)
            continue;
        mica_acquire(&meter->lock);
        for (int p = 0; p < MICA_PAIRS; p++)
            if ((meter->pairs[p].state == OPEN || meter->pairs[p].state == PENDING) && meter->gpu >= 0)
                atomic_fetch_sub(&mica_region->gpus[meter->gpu].inflight, meter->pairs[p].estimate);
        empty(meter);
        mica_release(&meter->lock);
    }
}

void mica_meter_forked(void)
{
    atomic_store(&table_lock, 0);
    for (int i = 0; i < MICA_METERS; i++) {
        if (atomic_load(&meters[i].context))
            empty(&meters[i]);
        atomic_store(&meters[i].lock, 0);
    }
}

/* Event calls of this thread must not break a stream capture that runs elsewhere in the program. Returns the mode to restore. */
static int relax(void)
{
    int mode = CAPTURE_RELAXED;
    return mica_real.cuThreadExchangeStreamCaptureMode && mica_real.cuThreadExchangeStreamCaptureMode(&mode) == 0 ? mode : -1;
}

static void restore(int mode)
{
    if (mode >= 0)
        (void)mica_real.cuThreadExchangeStreamCaptureMode(&mode);
}

static bool make_event(CUevent *event)
{
    return *event || (mica_real.cuEventCreate && mica_real.cuEventCreate(event, 0) == 0);
}

/* Lock held. Nothing will be measured with this pair. */
static void cancel(struct mica_meter *meter, struct mica_pair *pair)
{
    if (pair->state != OPEN)
        return; /* the context went meanwhile */
    pair->state = FREE;
    atomic_fetch_sub(&meter->unsettled, 1);
}

int mica_meter_begin(struct mica_meter *meter, CUstream stream, uint64_t key, int64_t estimate)
{
    int number = -1, mode = relax();
    CUevent begin = NULL;
    mica_acquire(&meter->lock);
    struct mica_pair *pair = &meter->pairs[meter->tail % MICA_PAIRS];
    if (meter->tail - meter->head < MICA_PAIRS && make_event(&pair->begin) && make_event(&pair->end)) {
        pair->state = OPEN;
        pair->key = key;
        pair->stream = stream;
        pair->estimate = estimate;
        begin = pair->begin;
        number = (int)(meter->tail++ % MICA_PAIRS);
        atomic_fetch_add(&meter->unsettled, 1);
        if (meter->gpu >= 0)
            atomic_fetch_add_explicit(&mica_region->gpus[meter->gpu].inflight, estimate, memory_order_relaxed);
    }
    mica_release(&meter->lock);
    /* Outside the lock: a full queue of the driver may make this wait. */
    if (number >= 0 && mica_real.cuEventRecord(begin, stream)) {
        mica_meter_end(meter, number, false);
        number = -1;
    }
    restore(mode);
    return number;
}

void mica_meter_end(struct mica_meter *meter, int number, bool launched)
{
    struct mica_pair *pair = &meter->pairs[number]; /* ours while it is OPEN */
    int mode = relax();
    bool measured = launched && pair->state == OPEN && mica_real.cuEventRecord(pair->end, pair->stream) == 0;
    restore(mode);
    mica_acquire(&meter->lock);
    if (pair->state == OPEN && measured) {
        pair->state = PENDING;
    } else if (pair->state == OPEN) {
        if (meter->gpu >= 0)
            atomic_fetch_sub(&mica_region->gpus[meter->gpu].inflight, pair->estimate);
        if (launched && meter->gpu >= 0)
            mica_ledger_busy(meter->gpu, (uint64_t)pair->estimate); /* the estimate stands */
        cancel(meter, pair);
    }
    mica_release(&meter->lock);
}

static void swap(CUevent *a, CUevent *b)
{
    CUevent old = *a;
    *a = *b;
    *b = old;
}

/* Nanoseconds of the pair's interval that the latest stretch of work does not cover; the stretch grows, or moves on to the pair. */
static int64_t uncovered(struct mica_meter *meter, struct mica_pair *pair)
{
    float length = 0, begin = 0, end = 0, stretch = 0;
    if (mica_real.cuEventElapsedTime(&length, pair->begin, pair->end))
        return pair->estimate; /* nothing measured: the estimate stands */
    if (!meter->last_end || mica_real.cuEventElapsedTime(&begin, meter->last_end, pair->begin)
        || mica_real.cuEventElapsedTime(&end, meter->last_end, pair->end)
        || mica_real.cuEventElapsedTime(&stretch, meter->last_begin, meter->last_end)) {
        swap(&meter->last_begin, &pair->begin);
        swap(&meter->last_end, &pair->end);
        return (int64_t)((double)length * 1e6);
    }
    /* Times since the end of the stretch, which began at -stretch. */
    float overlap = (end < 0 ? end : 0) - (begin > -stretch ? begin : -stretch);
    bool later = end > 0, apart = overlap <= 0;
    if (apart ? later : begin < -stretch)
        swap(&meter->last_begin, &pair->begin);
    if (later)
        swap(&meter->last_end, &pair->end);
    return (int64_t)((double)(apart ? length : length - overlap) * 1e6);
}

/* True when an older pair of the same stream still runs; a stream is in order. */
static bool behind(const CUstream busy[], int count, CUstream stream)
{
    for (int i = 0; i < count; i++)
        if (busy[i] == stream)
            return true;
    return false;
}

static void settle(struct mica_meter *meter, struct mica_pair *pair, CUresult done)
{
    struct mica_region_gpu *gpu = &mica_region->gpus[meter->gpu];
    int64_t measured = done ? pair->estimate : uncovered(meter, pair);
    atomic_fetch_sub(&gpu->inflight, pair->estimate);
    atomic_fetch_add(&gpu->balance, pair->estimate - measured);
    mica_ledger_busy(meter->gpu, (uint64_t)measured);
    if (!done)
        learn(pair->key, measured);
    pair->state = FREE;
    atomic_fetch_sub(&meter->unsettled, 1);
}

void mica_meter_settle(struct mica_meter *meter)
{
    CUstream busy[BUSY_STREAMS];
    int count = 0;
    if (!mica_meter_unsettled(meter) || meter->gpu < 0 || !mica_try(&meter->lock))
        return;
    int mode = relax();
    for (uint32_t at = meter->head; at != meter->tail && count < BUSY_STREAMS; at++) {
        struct mica_pair *pair = &meter->pairs[at % MICA_PAIRS];
        if (pair->state != PENDING || behind(busy, count, pair->stream))
            continue;
        CUresult done = mica_real.cuEventQuery(pair->end);
        if (done == MICA_CUDA_NOT_READY)
            busy[count++] = pair->stream;
        else
            settle(meter, pair, done);
    }
    while (meter->head != meter->tail && meter->pairs[meter->head % MICA_PAIRS].state == FREE)
        meter->head++;
    restore(mode);
    mica_release(&meter->lock);
}
