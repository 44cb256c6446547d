/* Stream-ordered memory: pools take chunks from the card, hand out parts of them, and keep what is returned until the host waits and it is more than the
 * release threshold. A pool has no holes: it needs as many chunks as its allocations fill. Frees count at once, whatever the stream has still to do. */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

enum { POOL_MAGIC = 0x504f4f4c };
enum { ATTR_THRESHOLD = 4, ATTR_RESERVED, ATTR_RESERVED_HIGH, ATTR_USED, ATTR_USED_HIGH, ATTR_MAX_SIZE = 13 };

static struct mica_pool *all;

/* A program may ask for one that is gone. */
static bool is_pool(const struct mica_pool *pool)
{
    pthread_mutex_lock(&sim.mutex);
    const struct mica_pool *at = all;
    while (at && at != pool)
        at = at->next;
    pthread_mutex_unlock(&sim.mutex);
    return at && at->magic == POOL_MAGIC;
}

/* With sim.mutex held: hold `bytes` (at least what is used) and give the rest back. */
static void shrink(struct mica_pool *pool, uint64_t bytes)
{
    uint64_t used = sim_round_to(pool->used, sim.config.memory.pool_chunk), keep = sim_round_to(bytes, sim.config.memory.pool_chunk);
    keep = keep > used ? keep : used;
    if (keep >= pool->reserved)
        return;
    sim_give(&sim.devices[pool->device], pool->reserved - keep);
    pool->reserved = keep;
}

static void unlink_pool(struct mica_pool *pool)
{
    for (struct mica_pool **at = &all; *at; at = &(*at)->next)
        if (*at == pool) {
            *at = pool->next;
            break;
        }
    pool->magic = 0;
    free(pool);
}

void sim_pool_return(struct mica_pool *pool, uint64_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    pool->used -= bytes;
    if (pool->closing) {
        shrink(pool, 0);
        if (pool->used == 0)
            unlink_pool(pool);
    }
    pthread_mutex_unlock(&sim.mutex);
}

void sim_pools_settle(const struct sim_device *device)
{
    pthread_mutex_lock(&sim.mutex);
    for (struct mica_pool *pool = all; pool; pool = pool->next)
        if (&sim.devices[pool->device] == device && pool->reserved > pool->threshold)
            shrink(pool, pool->threshold / sim.config.memory.pool_chunk * sim.config.memory.pool_chunk);
    pthread_mutex_unlock(&sim.mutex);
}

/* With sim.mutex held. */
static struct mica_pool *make(CUdevice device, bool is_default, uint64_t max)
{
    struct mica_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    *pool = (struct mica_pool){.magic = POOL_MAGIC, .device = device, .is_default = is_default, .max = max, .next = all};
    return all = pool;
}

static CUresult default_pool(CUdevice number, CUmempool *pool)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (!pool)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    if (!device->pool)
        device->pool = make(number, true, 0);
    *pool = device->pool;
    pthread_mutex_unlock(&sim.mutex);
    return *pool ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuDeviceGetDefaultMemPool(CUmempool *pool, CUdevice device)
{
    return default_pool(device, pool);
}

CUresult cuDeviceGetMemPool(CUmempool *pool, CUdevice number)
{
    CUresult result = default_pool(number, pool);
    if (!result && sim.devices[number].current)
        *pool = sim.devices[number].current;
    return result;
}

CUresult cuDeviceSetMemPool(CUdevice number, CUmempool pool)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (!result && (!is_pool(pool) || pool->device != number))
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        device->current = pool;
    return result;
}

CUresult cuMemPoolCreate(CUmempool *pool, const CUpoolProps *props)
{
    struct sim_device *device;
    if (!pool || !props || props->type != 1 || props->location.type != MICA_LOCATION_DEVICE)
        return MICA_CUDA_INVALID_VALUE;
    CUresult result = sim_device(props->location.id, &device);
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    *pool = make(props->location.id, false, props->max_size);
    pthread_mutex_unlock(&sim.mutex);
    return *pool ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuMemPoolDestroy(CUmempool pool)
{
    if (!is_pool(pool) || pool->is_default)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    if (sim.devices[pool->device].current == pool)
        sim.devices[pool->device].current = NULL;
    pool->closing = true; /* what is allocated stays until it is freed */
    shrink(pool, 0);
    if (pool->used == 0)
        unlink_pool(pool);
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmempool pool, size_t keep)
{
    if (!is_pool(pool))
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    shrink(pool, keep);
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmempool pool, const CUmemAccess *access, size_t count)
{
    return is_pool(pool) && access && count ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemPoolSetAttribute(CUmempool pool, int attribute, void *value)
{
    if (!is_pool(pool) || !value || attribute < 1 || attribute > ATTR_USED_HIGH || attribute == ATTR_RESERVED || attribute == ATTR_USED)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    if (attribute == ATTR_THRESHOLD)
        memcpy(&pool->threshold, value, sizeof pool->threshold);
    if (attribute == ATTR_RESERVED_HIGH)
        pool->reserved_high = pool->reserved;
    if (attribute == ATTR_USED_HIGH)
        pool->used_high = pool->used;
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmempool pool, int attribute, void *value)
{
    if (!is_pool(pool) || !value || attribute < 1 || (attribute > ATTR_USED_HIGH && attribute != ATTR_MAX_SIZE))
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    const uint64_t wide[ATTR_MAX_SIZE + 1] = {[ATTR_THRESHOLD] = pool->threshold, [ATTR_RESERVED] = pool->reserved, [ATTR_RESERVED_HIGH] = pool->reserved_high,
                                              [ATTR_USED] = pool->used, [ATTR_USED_HIGH] = pool->used_high, [ATTR_MAX_SIZE] = pool->max};
    pthread_mutex_unlock(&sim.mutex);
    if (attribute < ATTR_THRESHOLD)
        *(int *)value = 1;
    else
        memcpy(value, &wide[attribute], sizeof wide[0]);
    return MICA_CUDA_SUCCESS;
}

CUresult sim_pool_allocate(CUdeviceptr *pointer, size_t bytes, struct mica_pool *pool)
{
    struct sim_device *device = &sim.devices[pool->device];
    if (!pointer || !bytes)
        return MICA_CUDA_INVALID_VALUE;
    if (bytes > device->card->memory)
        return MICA_CUDA_OUT_OF_MEMORY;
    uint64_t size = sim_round_to(bytes, sim.config.memory.pool_unit);
    pthread_mutex_lock(&sim.mutex);
    uint64_t wanted = sim_round_to(pool->used + size, sim.config.memory.pool_chunk);
    CUresult result = pool->max && pool->used + size > pool->max ? MICA_CUDA_OUT_OF_MEMORY : MICA_CUDA_SUCCESS;
    if (!result && wanted > pool->reserved) {
        result = sim_take(device, wanted - pool->reserved);
        pool->reserved = result ? pool->reserved : wanted;
    }
    if (!result)
        pool->used += size;
    pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
    pool->reserved_high = pool->reserved > pool->reserved_high ? pool->reserved : pool->reserved_high;
    pthread_mutex_unlock(&sim.mutex);
    if (result)
        return result;
    result = sim_block_add(pointer, (struct sim_block){.bytes = size, .taken = size, .pool = pool, .device = device});
    if (result)
        sim_pool_return(pool, size);
    return result;
}

static CUresult allocate(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && stream->capture)
        return pointer && bytes ? sim_capture_alloc(stream, bytes, pointer) : MICA_CUDA_INVALID_VALUE;
    if (!result && !pool)
        result = cuDeviceGetMemPool(&pool, stream->ctx->device); /* the stream's device, whatever context is current */
    if (!result && (!is_pool(pool) || pool->closing))
        result = MICA_CUDA_INVALID_VALUE;
    return result ? result : sim_pool_allocate(pointer, bytes, pool);
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return allocate(pointer, bytes, NULL, stream);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return pool ? allocate(pointer, bytes, pool, stream) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    struct sim_task task = {.kind = SIM_TASK_FREE, .pointer = pointer};
    if (result)
        return result;
    return stream->capture ? sim_capture_add(stream, &task) : sim_release(pointer);
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return cuMemAllocAsync(pointer, bytes, stream ? stream : MICA_STREAM_PER_THREAD);
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return cuMemAllocFromPoolAsync(pointer, bytes, pool, stream ? stream : MICA_STREAM_PER_THREAD);
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream)
{
    return cuMemFreeAsync(pointer, stream ? stream : MICA_STREAM_PER_THREAD);
}
