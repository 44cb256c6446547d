/* Stream-ordered memory: a pool is charged for what it holds of the card (its RESERVED_MEM_CURRENT), used or not. Pools grow when something is
 * allocated from them and shrink when the host waits, when they are trimmed, and when they are gone; each time the charge follows. */
#include "gate.h"
#include "memory.h"

enum { ATTR_THRESHOLD = 4, ATTR_RESERVED = 5, ATTR_USED = 7 };
enum { RECORDS_AT_ONCE = 64 };

/* Records are never unmapped, so a pointer to one stays good; a free one has pool NULL. */
struct mica_pool_record {
    _Atomic(CUmempool) pool;
    int gpu; /* MICA_GPU_NONE: host memory, not charged */
    mica_lock lock;
    uint64_t charged, live; /* bytes; allocations not freed. Guarded by lock */
    bool own, closed;       /* made by the program; and destroyed by it while something lived there */
    struct mica_pool_record *next;
};

static struct mica_table index_of; /* key: pool, owner: record */
static struct mica_pool_record *_Atomic records;
static mica_lock records_lock;
static _Atomic int something_freed;

static struct mica_pool_record *lookup(CUmempool pool)
{
    mica_acquire(&index_of.lock);
    struct mica_entry *entry = mica_table_find(&index_of, (uintptr_t)pool);
    struct mica_pool_record *record = entry ? entry->owner : NULL;
    mica_release(&index_of.lock);
    return record;
}

/* records_lock held. */
static struct mica_pool_record *unused_record(void)
{
    for (struct mica_pool_record *at = atomic_load(&records); at; at = at->next)
        if (!at->pool)
            return at;
    struct mica_pool_record *fresh = mica_pages_get(RECORDS_AT_ONCE * sizeof *fresh).at;
    for (int i = 0; fresh && i < RECORDS_AT_ONCE; i++) {
        fresh[i].next = atomic_load(&records);
        atomic_store(&records, &fresh[i]);
    }
    return fresh ? atomic_load(&records) : NULL;
}

/* The record of a pool, made when there is none; NULL without memory. */
static struct mica_pool_record *record_of(CUmempool pool, int gpu, bool own)
{
    mica_acquire(&records_lock);
    struct mica_pool_record *record = lookup(pool);
    if (!record && (record = unused_record())) {
        const struct mica_entry entry = {.key = (uintptr_t)pool, .owner = record};
        record->gpu = gpu;
        record->own = own;
        record->closed = false;
        record->charged = record->live = 0;
        record->pool = pool; /* last: who sees it takes the rest for the pool's, and would destroy one that seems closed */
        if (!mica_table_put(&index_of, &entry)) {
            record->pool = NULL;
            record = NULL;
        }
    }
    mica_release(&records_lock);
    return record;
}

/* records_lock held. */
static void forget(struct mica_pool_record *record)
{
    struct mica_entry entry;
    (void)mica_table_take(&index_of, (uintptr_t)record->pool, &entry);
    record->pool = NULL;
}

static bool attribute(CUmempool pool, int number, uint64_t *value)
{
    return mica_real.cuMemPoolGetAttribute && mica_real.cuMemPoolGetAttribute(pool, number, value) == 0;
}

/* Charge what the pool holds now. Lock held. */
static void settle(struct mica_pool_record *record)
{
    uint64_t held = 0;
    if (record->gpu < 0 || !attribute(record->pool, ATTR_RESERVED, &held))
        return;
    if (held < record->charged)
        mica_ledger_release(record->gpu, record->charged - held);
    else if (held > record->charged)
        mica_charge_taken(record->gpu, held - record->charged);
    record->charged = held;
}

static void trim(const struct mica_pool_record *record)
{
    if (mica_real.cuMemPoolTrimTo)
        (void)mica_real.cuMemPoolTrimTo(record->pool, 0);
}

/* A destroyed pool is kept from the driver until its last allocation is gone: only a living pool says what it holds. Lock held. */
static void finish(struct mica_pool_record *record)
{
    trim(record);
    settle(record);
    if (record->live || record->charged || !mica_real.cuMemPoolDestroy)
        return;
    mica_acquire(&records_lock); /* a new pool may get the handle at once, and must not find this record */
    if (mica_real.cuMemPoolDestroy(record->pool) == 0)
        forget(record);
    mica_release(&records_lock);
}

/* Lock held. */
static void look_at(struct mica_pool_record *record, bool trimming)
{
    if (record->closed) {
        finish(record);
    } else if (record->charged || trimming) {
        if (trimming)
            trim(record);
        settle(record);
    }
}

static void look_at_all(int gpu, bool trimming)
{
    for (struct mica_pool_record *at = atomic_load(&records); at; at = at->next) {
        if (!at->pool || !mica_try(&at->lock))
            continue; /* who holds the lock settles */
        mica_activity_begin();
        if (at->pool && (gpu < 0 || at->gpu == gpu)) /* asked again: a record may be another pool's by now */
            look_at(at, trimming);
        mica_activity_end();
        mica_release(&at->lock);
    }
}

void mica_pools_settle(void)
{
    if (atomic_load_explicit(&records, memory_order_relaxed))
        look_at_all(MICA_GPU_NONE, false);
}

void mica_pools_trim(int gpu)
{
    look_at_all(gpu, true);
}

void mica_pool_freed(struct mica_pool_record *record)
{
    mica_acquire(&record->lock);
    record->live -= record->live > 0;
    if (record->closed)
        finish(record);
    mica_release(&record->lock);
    atomic_store_explicit(&something_freed, 1, memory_order_relaxed);
}

void mica_pools_waited(bool for_everything)
{
    if (MICA_LIKELY(!atomic_load_explicit(&something_freed, memory_order_relaxed)) || atomic_load(&mica_slice_state) != 1)
        return;
    if (for_everything) /* else what other streams freed may come out of the pools at the next wait */
        atomic_store_explicit(&something_freed, 0, memory_order_relaxed);
    mica_pools_settle();
}

/* A stream's device, which need not be the current context's; -1 when there is none. */
CUdevice mica_device_of_stream(CUstream stream)
{
    CUdevice device = -1;
    CUcontext context = NULL, back = NULL;
    bool special = !stream || stream == MICA_STREAM_LEGACY || stream == MICA_STREAM_PER_THREAD;
    if (!special && mica_real.cuStreamGetDevice && mica_real.cuStreamGetDevice(stream, &device) == 0)
        return device;
    bool pushed = !special && mica_real.cuStreamGetCtx && mica_real.cuCtxPushCurrent_v2 && mica_real.cuCtxPopCurrent_v2
        && mica_real.cuStreamGetCtx(stream, &context) == 0 && mica_real.cuCtxPushCurrent_v2(context) == 0;
    if (!mica_real.cuCtxGetDevice || mica_real.cuCtxGetDevice(&device))
        device = -1;
    if (pushed)
        (void)mica_real.cuCtxPopCurrent_v2(&back);
    return device;
}

/* GPU of a pool that nobody told us of: a device's own. Others are imported, and nothing can be allocated from those. */
static int gpu_of_unknown(CUmempool pool)
{
    for (CUdevice device = 0; device < mica_slice.device_count; device++) {
        CUmempool own = NULL;
        if ((mica_real.cuDeviceGetDefaultMemPool && mica_real.cuDeviceGetDefaultMemPool(&own, device) == 0 && own == pool)
            || (mica_real.cuDeviceGetMemPool && mica_real.cuDeviceGetMemPool(&own, device) == 0 && own == pool))
            return mica_gpu_of_device(device);
    }
    return mica_gpu_current();
}

/* One allocating call: which of the four, and its arguments. */
struct request {
    enum { FROM_DEVICE, FROM_DEVICE_PTSZ, FROM_POOL, FROM_POOL_PTSZ } form;
    CUdeviceptr *pointer;
    size_t bytes;
    CUmempool pool;
    CUstream stream;
};

static CUresult ask_driver(const struct request *r)
{
    switch (r->form) {
    case FROM_DEVICE:
        return MICA_REAL(cuMemAllocAsync, r->pointer, r->bytes, r->stream);
    case FROM_DEVICE_PTSZ:
        return MICA_REAL(cuMemAllocAsync_ptsz, r->pointer, r->bytes, r->stream);
    case FROM_POOL:
        return MICA_REAL(cuMemAllocFromPoolAsync, r->pointer, r->bytes, r->pool, r->stream);
    default:
        return MICA_REAL(cuMemAllocFromPoolAsync_ptsz, r->pointer, r->bytes, r->pool, r->stream);
    }
}

static CUstream stream_of(const struct request *r)
{
    bool per_thread = r->form == FROM_DEVICE_PTSZ || r->form == FROM_POOL_PTSZ;
    return per_thread && !r->stream ? MICA_STREAM_PER_THREAD : r->stream;
}

/* Take back what passes the cap: freed, waited for, and out of the pool again. Lock held. */
static void undo(struct mica_pool_record *record, const struct request *r)
{
    CUstream stream = stream_of(r);
    (void)MICA_REAL(cuMemFreeAsync, *r->pointer, stream);
    if (mica_real.cuStreamSynchronize)
        (void)mica_real.cuStreamSynchronize(stream);
    if (mica_real.cuMemPoolTrimTo)
        (void)mica_real.cuMemPoolTrimTo(record->pool, record->charged);
    *r->pointer = 0;
    settle(record);
}

/* Lock held: so that growth is this call's and no other's. */
static CUresult allocate_from(struct mica_pool_record *record, const struct request *r)
{
    uint64_t used = 0, held = 0;
    settle(record);
    if (!attribute(record->pool, ATTR_USED, &used))
        used = record->charged;
    uint64_t room = record->charged > used ? record->charged - used : 0, growth = r->bytes > room ? r->bytes - room : 0;
    if (growth && !mica_charge(record->gpu, growth))
        return MICA_CUDA_OUT_OF_MEMORY;
    CUresult result = ask_driver(r);
    if (!attribute(record->pool, ATTR_RESERVED, &held))
        held = record->charged + growth;
    uint64_t grown = held > record->charged ? held - record->charged : 0;
    if (!mica_charge_correct(record->gpu, growth, grown)) {
        if (!result)
            undo(record, r);
        mica_ledger_release(record->gpu, growth);
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    record->charged += grown;
    if (result)
        return result;
    if (mica_memory_remember(*r->pointer, 0, record->gpu, record, MICA_KIND_POOLED)) {
        record->live++;
        return MICA_CUDA_SUCCESS;
    }
    undo(record, r);
    return MICA_CUDA_OUT_OF_MEMORY;
}

static CUresult allocate(struct request r)
{
    CUresult result = mica_memory_begin();
    if (result)
        return result;
    if (mica_gate_capturing(stream_of(&r))) { /* a node of a graph, charged when the graph is launched */
        mica_graph_memory_noted();
        return ask_driver(&r);
    }
    bool from_device = r.form == FROM_DEVICE || r.form == FROM_DEVICE_PTSZ;
    CUdevice device = from_device ? mica_device_of_stream(r.stream) : -1;
    if (from_device && (device < 0 || !mica_real.cuDeviceGetMemPool || mica_real.cuDeviceGetMemPool(&r.pool, device)))
        return ask_driver(&r); /* no context: the driver says so */
    struct mica_pool_record *record = lookup(r.pool);
    int gpu = record ? record->gpu : from_device ? mica_gpu_of_device(device) : r.pool ? gpu_of_unknown(r.pool) : MICA_GPU_NONE;
    result = mica_memory_usable(&gpu, MICA_CUDA_OUT_OF_MEMORY);
    if (result || gpu == MICA_GPU_NONE || !r.bytes)
        return result ? result : ask_driver(&r);
    record = record ? record : record_of(r.pool, gpu, false);
    if (!record)
        return MICA_CUDA_OUT_OF_MEMORY;
    mica_activity_begin();
    mica_acquire(&record->lock);
    result = record->closed ? MICA_CUDA_INVALID_VALUE : allocate_from(record, &r);
    mica_release(&record->lock);
    mica_activity_end();
    return result;
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return allocate((struct request){FROM_DEVICE, pointer, bytes, NULL, stream});
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return allocate((struct request){FROM_DEVICE_PTSZ, pointer, bytes, NULL, stream});
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return allocate((struct request){FROM_POOL, pointer, bytes, pool, stream});
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return allocate((struct request){FROM_POOL_PTSZ, pointer, bytes, pool, stream});
}

CUresult cuMemPoolCreate(CUmempool *pool, const CUpoolProps *props)
{
    CUresult result = mica_memory_begin();
    if (result)
        return result;
    int gpu = pool && props ? mica_gpu_of_location(&props->location) : MICA_GPU_NONE;
    result = mica_memory_usable(&gpu, MICA_CUDA_NOT_PERMITTED);
    if (!result)
        result = MICA_REAL(cuMemPoolCreate, pool, props);
    if (result || record_of(*pool, gpu, true))
        return result;
    (void)MICA_REAL(cuMemPoolDestroy, *pool);
    return MICA_CUDA_OUT_OF_MEMORY;
}

/* Nothing new comes from a pool that is being destroyed; its device goes back to the default one. Lock held. */
static void close_pool(struct mica_pool_record *record)
{
    uint64_t none = 0;
    CUmempool current, fallback;
    record->closed = true;
    if (mica_real.cuMemPoolSetAttribute)
        (void)mica_real.cuMemPoolSetAttribute(record->pool, ATTR_THRESHOLD, &none);
    for (CUdevice device = 0; mica_real.cuDeviceGetMemPool && mica_real.cuDeviceSetMemPool && device < mica_slice.device_count; device++)
        if (mica_real.cuDeviceGetMemPool(&current, device) == 0 && current == record->pool && mica_real.cuDeviceGetDefaultMemPool
            && mica_real.cuDeviceGetDefaultMemPool(&fallback, device) == 0)
            (void)mica_real.cuDeviceSetMemPool(device, fallback);
    finish(record);
}

CUresult cuMemPoolDestroy(CUmempool pool)
{
    struct mica_pool_record *record = mica_driver() ? lookup(pool) : NULL;
    if (!record || !record->own || record->gpu < 0) {
        if (record)
            mica_acquire(&record->lock);
        mica_acquire(&records_lock);
        CUresult result = MICA_REAL(cuMemPoolDestroy, pool);
        if (!result && record)
            forget(record);
        mica_release(&records_lock);
        if (record)
            mica_release(&record->lock);
        return result;
    }
    mica_activity_begin();
    mica_acquire(&record->lock);
    bool again = record->closed;
    if (!again)
        close_pool(record);
    mica_release(&record->lock);
    mica_activity_end();
    return again ? MICA_CUDA_INVALID_VALUE : MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmempool pool, size_t keep)
{
    struct mica_pool_record *record = mica_driver() ? lookup(pool) : NULL;
    if (!record)
        return MICA_REAL(cuMemPoolTrimTo, pool, keep);
    mica_activity_begin();
    mica_acquire(&record->lock);
    CUresult result = MICA_REAL(cuMemPoolTrimTo, pool, keep);
    settle(record);
    mica_release(&record->lock);
    mica_activity_end();
    return result;
}

void mica_pool_noted(CUmempool pool, int gpu)
{
    (void)record_of(pool, gpu, false);
}

void mica_pools_forked(void)
{
    mica_table_forked(&index_of);
    atomic_store(&records, NULL);
    atomic_store(&records_lock, 0);
    atomic_store(&something_freed, 0);
}
