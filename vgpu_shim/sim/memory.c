/* Memory with an address: who holds what, where. Sizes and addresses are exact, contents do not exist. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

/* Sorted by address; addresses only grow, so new blocks go to the end. */
static struct sim_block *blocks;
static size_t block_count, block_room;
static CUdeviceptr next_address = UINT64_C(0x7f0000000000) >> 4;

uint64_t sim_round_to(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

uint64_t sim_round(uint64_t bytes)
{
    return sim_round_to(bytes, sim.config.memory.granularity);
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

CUresult sim_take_overhead(struct sim_device *device, uint64_t bytes)
{
    CUresult result = sim_take(device, bytes);
    if (!result)
        sim.state->slots[sim.slot].overhead[device->gpu] += bytes;
    return result;
}

void sim_give_overhead(struct sim_device *device, uint64_t bytes)
{
    sim.state->slots[sim.slot].overhead[device->gpu] -= bytes;
    sim_give(device, bytes);
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

struct sim_block *sim_block_at(CUdeviceptr pointer)
{
    long at = find(pointer);
    return at >= 0 && pointer - blocks[at].at < blocks[at].bytes ? &blocks[at] : NULL;
}

struct sim_block *sim_block_importing(const struct mica_ctx *ctx, uint64_t shared)
{
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].imported && blocks[i].ctx == ctx && blocks[i].shared == shared)
            return &blocks[i];
    return NULL;
}

CUresult sim_block_add(CUdeviceptr *pointer, struct sim_block block)
{
    CUresult result = MICA_CUDA_SUCCESS;
    pthread_mutex_lock(&sim.mutex);
    if (block_count == block_room) {
        size_t room = block_room ? block_room * 2 : 256;
        struct sim_block *grown = realloc(blocks, room * sizeof *grown);
        if (grown) {
            blocks = grown;
            block_room = room;
        } else {
            result = MICA_CUDA_OUT_OF_MEMORY;
        }
    }
    if (!result) {
        /* what comes from a pool shares pages, what does not has its own */
        block.at = sim_address_take(block.bytes, block.pool ? 512 : UINT64_C(2) << 20);
        blocks[block_count++] = block;
        *pointer = block.at;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

bool sim_block_remove(CUdeviceptr pointer, struct sim_block *out)
{
    pthread_mutex_lock(&sim.mutex);
    long at = find(pointer);
    bool found = at >= 0 && blocks[at].at == pointer;
    if (found) {
        *out = blocks[at];
        memmove(&blocks[at], &blocks[at + 1], (block_count - (size_t)at - 1) * sizeof *blocks);
        block_count--;
    }
    pthread_mutex_unlock(&sim.mutex);
    return found;
}

void sim_block_done(const struct sim_block *block)
{
    if (block->pool)
        sim_pool_return(block->pool, block->taken);
    else if (block->taken)
        sim_give(block->device, block->taken);
    bool again = false; /* open twice in this process */
    pthread_mutex_lock(&sim.mutex);
    for (size_t i = 0; block->shared && i < block_count; i++)
        again = again || blocks[i].shared == block->shared;
    pthread_mutex_unlock(&sim.mutex);
    if (block->shared && !again) {
        sim_state_lock(block->device->gpu);
        sim_shared_drop(sim.state, block->shared, sim.slot);
        sim_state_unlock(block->device->gpu);
    }
}

CUresult sim_release(CUdeviceptr pointer)
{
    struct sim_block block;
    if (!pointer)
        return MICA_CUDA_SUCCESS;
    CUresult result = sim_check();
    if (result)
        return result;
    if (!sim_block_remove(pointer, &block))
        return sim_graph_memory_free(pointer) ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_VALUE;
    sim_block_done(&block);
    return MICA_CUDA_SUCCESS;
}

void sim_memory_drop(const struct mica_ctx *ctx)
{
    for (;;) {
        struct sim_block block = {0};
        CUdeviceptr next = 0;
        pthread_mutex_lock(&sim.mutex);
        for (size_t i = 0; i < block_count && !next; i++)
            if (blocks[i].ctx == ctx)
                next = blocks[i].at;
        pthread_mutex_unlock(&sim.mutex);
        if (!next || !sim_block_remove(next, &block))
            return;
        sim_block_done(&block);
    }
}

bool sim_memory_covers(CUdeviceptr pointer, size_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    long at = find(pointer);
    bool ok = at >= 0 && pointer - blocks[at].at <= blocks[at].bytes && bytes <= blocks[at].bytes - (pointer - blocks[at].at);
    pthread_mutex_unlock(&sim.mutex);
    return ok || sim_vmm_covers(pointer, bytes) || sim_graph_memory_covers(pointer, bytes);
}

static CUresult allocate(CUdeviceptr *pointer, size_t bytes, bool managed)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (!result)
        result = sim_unsafe_call();
    if (result)
        return result;
    struct sim_device *device = sim_device_of(ctx);
    bool on_host = managed && sim.config.memory.oversubscribe;
    if (!pointer || !bytes)
        return MICA_CUDA_INVALID_VALUE;
    if (bytes > device->card->memory && !on_host)
        return MICA_CUDA_OUT_OF_MEMORY;
    uint64_t size = sim_round(bytes), taken = size;
    result = sim_take(device, size);
    if (result && on_host) {
        taken = 0; /* lives on the host until there is room; pages do not move here */
        result = MICA_CUDA_SUCCESS;
    }
    if (!result)
        result = sim_block_add(pointer, (struct sim_block){.bytes = size, .taken = taken, .ctx = ctx, .device = device});
    else
        return result;
    if (result && taken)
        sim_give(device, taken);
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    return allocate(pointer, bytes, false);
}

CUresult cuMemAlloc(unsigned *pointer, unsigned bytes)
{
    (void)pointer, (void)bytes;
    return MICA_CUDA_NOT_SUPPORTED; /* 32-bit addresses; kept because programs link to the name */
}

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
    return flags == 1 || flags == 2 ? allocate(pointer, bytes, true) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element)
{
    const size_t unit = sim.config.memory.pitch ? sim.config.memory.pitch : 1;
    if (!pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return MICA_CUDA_INVALID_VALUE;
    size_t row, bytes;
    if (__builtin_add_overflow(width, unit - 1, &row) || __builtin_mul_overflow(row / unit * unit, height, &bytes))
        return MICA_CUDA_OUT_OF_MEMORY;
    CUresult result = allocate(pointer, bytes, false);
    if (!result)
        *pitch = row / unit * unit;
    return result;
}

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    CUresult result = sim_unsafe_call();
    return result ? result : sim_release(pointer);
}

CUresult cuMemFree(unsigned pointer)
{
    return cuMemFree_v2(pointer);
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    const struct sim_block *block = sim_block_at(pointer);
    if (!block)
        result = MICA_CUDA_NOT_FOUND;
    if (block && base)
        *base = block->at;
    if (block && size)
        *size = block->bytes;
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
