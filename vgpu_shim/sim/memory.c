/* Linear and stream-ordered memory: sizes and addresses are exact, contents do not exist. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum { POOL_MAGIC = 0x504f4f4c, PITCH = 512 };

struct block {
    CUdeviceptr at;
    uint64_t bytes;
    struct mica_ctx *ctx; /* NULL: stream-ordered, lives as long as the process */
    struct mica_pool *pool;
    struct sim_device *device;
};

/* Sorted by address; addresses only grow, so new blocks go to the end. */
static struct block *blocks;
static size_t block_count, block_room;
static CUdeviceptr next_address = UINT64_C(0x7f0000000000) >> 4;

uint64_t sim_round(uint64_t bytes)
{
    uint64_t unit = sim.config.granularity;
    return (bytes + unit - 1) / unit * unit;
}

CUresult sim_take(struct sim_device *device, uint64_t bytes)
{
    CUresult result = MICA_CUDA_SUCCESS;
    uint64_t total = device->card->memory;
    sim_state_lock(device->gpu);
    for (int attempt = 0; attempt < 2; attempt++) {
        sim_state_reap(sim.state, device->gpu, attempt > 0);
        uint64_t used = sim_state_used(sim.state, device->gpu);
        result = bytes <= total && used <= total - bytes ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
        if (!result)
            break;
    }
    if (!result)
        sim.state->slots[sim.slot].bytes[device->gpu] += bytes;
    sim_state_unlock(device->gpu);
    return result;
}

void sim_give(struct sim_device *device, uint64_t bytes)
{
    sim_state_lock(device->gpu);
    sim.state->slots[sim.slot].bytes[device->gpu] -= bytes;
    sim_state_unlock(device->gpu);
}

CUdeviceptr sim_address_take(uint64_t bytes, uint64_t align)
{
    CUdeviceptr at = (next_address + align - 1) / align * align;
    next_address = at + bytes;
    return at;
}

/* Index of the last block that starts at or before the address, or -1. Called with sim.mutex held. */
static long find(CUdeviceptr pointer)
{
    size_t low = 0, high = block_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (blocks[middle].at <= pointer)
            low = middle + 1;
        else
            high = middle;
    }
    return (long)low - 1;
}

static CUresult add(CUdeviceptr *pointer, struct block block)
{
    if (block_count == block_room) {
        size_t room = block_room ? block_room * 2 : 256;
        struct block *grown = realloc(blocks, room * sizeof *grown);
        if (!grown)
            return MICA_CUDA_OUT_OF_MEMORY;
        blocks = grown;
        block_room = room;
    }
    block.at = sim_address_take(block.bytes, UINT64_C(2) << 20);
    blocks[block_count++] = block;
    *pointer = block.at;
    return MICA_CUDA_SUCCESS;
}

static CUresult allocate(CUdeviceptr *pointer, size_t bytes, struct mica_pool *pool)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    struct sim_device *device = pool ? &sim.devices[pool->device] : sim_device_of(ctx);
    if (!pointer || !bytes)
        return MICA_CUDA_INVALID_VALUE;
    if (bytes > device->card->memory)
        return MICA_CUDA_OUT_OF_MEMORY;
    uint64_t size = sim_round(bytes);
    result = sim_take(device, size);
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    result = add(pointer, (struct block){.bytes = size, .ctx = pool ? NULL : ctx, .pool = pool, .device = device});
    if (!result && pool) {
        pool->used += size;
        pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
    }
    pthread_mutex_unlock(&sim.mutex);
    if (result)
        sim_give(device, size);
    return result;
}

static CUresult release(CUdeviceptr pointer)
{
    if (!pointer)
        return MICA_CUDA_SUCCESS;
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    long at = find(pointer);
    struct block block = {0};
    if (at >= 0 && blocks[at].at == pointer) {
        block = blocks[at];
        memmove(&blocks[at], &blocks[at + 1], (block_count - (size_t)at - 1) * sizeof *blocks);
        block_count--;
        if (block.pool)
            block.pool->used -= block.bytes;
    }
    pthread_mutex_unlock(&sim.mutex);
    if (!block.bytes)
        return MICA_CUDA_INVALID_VALUE;
    sim_give(block.device, block.bytes);
    return MICA_CUDA_SUCCESS;
}

void sim_memory_drop(const struct mica_ctx *ctx)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&sim.mutex);
    size_t kept = 0;
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i].ctx == ctx)
            bytes += blocks[i].bytes;
        else
            blocks[kept++] = blocks[i];
    }
    block_count = kept;
    pthread_mutex_unlock(&sim.mutex);
    sim_give(sim_device_of(ctx), bytes);
}

bool sim_memory_covers(CUdeviceptr pointer, size_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    long at = find(pointer);
    bool ok = at >= 0 && pointer - blocks[at].at <= blocks[at].bytes && bytes <= blocks[at].bytes - (pointer - blocks[at].at);
    pthread_mutex_unlock(&sim.mutex);
    return ok || sim_vmm_covers(pointer, bytes);
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    return allocate(pointer, bytes, NULL);
}

CUresult cuMemAlloc(unsigned *pointer, unsigned bytes)
{
    (void)pointer, (void)bytes;
    return MICA_CUDA_NOT_SUPPORTED; /* 32-bit addresses; kept because programs link to the name */
}

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
    return flags == 1 || flags == 2 ? allocate(pointer, bytes, NULL) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element)
{
    if (!pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return MICA_CUDA_INVALID_VALUE;
    size_t row, bytes;
    if (__builtin_add_overflow(width, PITCH - 1, &row) || __builtin_mul_overflow(row / PITCH * PITCH, height, &bytes))
        return MICA_CUDA_OUT_OF_MEMORY;
    CUresult result = allocate(pointer, bytes, NULL);
    if (!result)
        *pitch = row / PITCH * PITCH;
    return result;
}

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    return release(pointer);
}

CUresult cuMemFree(unsigned pointer)
{
    return release(pointer);
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    long at = find(pointer);
    if (at < 0 || pointer - blocks[at].at >= blocks[at].bytes)
        result = MICA_CUDA_NOT_FOUND;
    else {
        if (base)
            *base = blocks[at].at;
        if (size)
            *size = blocks[at].bytes;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!free_bytes || !total)
        return MICA_CUDA_INVALID_VALUE;
    struct sim_device *device = sim_device_of(ctx);
    sim_state_lock(device->gpu);
    sim_state_reap(sim.state, device->gpu, false);
    uint64_t used = sim_state_used(sim.state, device->gpu);
    sim_state_unlock(device->gpu);
    *total = device->card->memory;
    *free_bytes = used < *total ? *total - used : 0;
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemGetInfo(unsigned *free_bytes, unsigned *total)
{
    size_t f = 0, t = 0;
    CUresult result = free_bytes && total ? cuMemGetInfo_v2(&f, &t) : MICA_CUDA_INVALID_VALUE;
    if (!result) {
        *free_bytes = f > UINT32_MAX ? UINT32_MAX : (unsigned)f;
        *total = t > UINT32_MAX ? UINT32_MAX : (unsigned)t;
    }
    return result;
}

/* Pools. */

static CUresult pool_of(CUdevice number, CUmempool *pool)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (!pool)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    if (!device->pool && (device->pool = calloc(1, sizeof *device->pool)))
        *device->pool = (struct mica_pool){.magic = POOL_MAGIC, .device = number, .is_default = true};
    *pool = device->pool;
    pthread_mutex_unlock(&sim.mutex);
    return *pool ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

static bool is_pool(const struct mica_pool *pool)
{
    return pool && pool->magic == POOL_MAGIC;
}

CUresult cuDeviceGetDefaultMemPool(CUmempool *pool, CUdevice device)
{
    return pool_of(device, pool);
}

CUresult cuDeviceGetMemPool(CUmempool *pool, CUdevice device)
{
    return pool_of(device, pool);
}

CUresult cuMemPoolCreate(CUmempool *pool, const CUpoolProps *props)
{
    struct sim_device *device;
    if (!pool || !props || props->type != 1 || props->location.type != MICA_LOCATION_DEVICE)
        return MICA_CUDA_INVALID_VALUE;
    CUresult result = sim_device(props->location.id, &device);
    if (result)
        return result;
    if (!(*pool = calloc(1, sizeof **pool)))
        return MICA_CUDA_OUT_OF_MEMORY;
    **pool = (struct mica_pool){.magic = POOL_MAGIC, .device = props->location.id};
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmempool pool)
{
    if (!is_pool(pool) || pool->is_default)
        return MICA_CUDA_INVALID_VALUE;
    uint64_t bytes = 0;
    pthread_mutex_lock(&sim.mutex);
    size_t kept = 0;
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i].pool == pool)
            bytes += blocks[i].bytes;
        else
            blocks[kept++] = blocks[i];
    }
    block_count = kept;
    pthread_mutex_unlock(&sim.mutex);
    sim_give(&sim.devices[pool->device], bytes);
    free(pool);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmempool pool, size_t keep)
{
    (void)keep; /* a pool holds nothing that is not in use */
    return is_pool(pool) ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemPoolSetAttribute(CUmempool pool, int attribute, void *value)
{
    if (!is_pool(pool) || !value || attribute < 1 || attribute > 8)
        return MICA_CUDA_INVALID_VALUE;
    if (attribute == 4)
        memcpy(&pool->threshold, value, sizeof pool->threshold);
    if (attribute == 6 || attribute == 8)
        pool->used_high = pool->used;
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmempool pool, int attribute, void *value)
{
    if (!is_pool(pool) || !value || attribute < 1 || attribute > 8)
        return MICA_CUDA_INVALID_VALUE;
    const uint64_t wide[] = {0, 0, 0, 0, pool->threshold, pool->used, pool->used_high, pool->used, pool->used_high};
    if (attribute < 4)
        *(int *)value = 1;
    else
        memcpy(value, &wide[attribute], sizeof wide[0]);
    return MICA_CUDA_SUCCESS;
}

static CUresult allocate_async(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    struct mica_stream *checked;
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (!result)
        result = sim_stream(stream, &checked);
    if (!result && !pool)
        result = pool_of(checked->ctx->device, &pool); /* the stream's device, whatever context is current */
    if (!result && !is_pool(pool))
        result = MICA_CUDA_INVALID_VALUE;
    return result ? result : allocate(pointer, bytes, pool);
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return allocate_async(pointer, bytes, NULL, stream);
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream)
{
    return allocate_async(pointer, bytes, NULL, stream);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return pool ? allocate_async(pointer, bytes, pool, stream) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmempool pool, CUstream stream)
{
    return cuMemAllocFromPoolAsync(pointer, bytes, pool, stream);
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream)
{
    struct mica_stream *checked;
    CUresult result = sim_stream(stream, &checked);
    return result ? result : release(pointer);
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream)
{
    return cuMemFreeAsync(pointer, stream);
}
