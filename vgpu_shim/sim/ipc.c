/* Memory of other processes and of other APIs. An exported allocation belongs to all processes that have it open and is freed by the last of them. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IPC_MAGIC = 0x49504331, EXTERNAL_MAGIC = 0x45585431, LAZY_PEER = 1 };
struct handle { uint32_t magic, device; uint64_t shared, bytes; char uuid[40]; };
_Static_assert(sizeof(struct handle) <= sizeof(CUipcHandle), "an IPC handle holds what we put in it");

CUresult cuIpcGetMemHandle(CUipcHandle *out, CUdeviceptr pointer)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct sim_block *block = sim_block_at(pointer);
    struct handle handle = {.magic = IPC_MAGIC};
    if (!out || !block || block->pool || block->imported) {
        result = MICA_CUDA_INVALID_VALUE;
    } else if (!block->shared) {
        sim_state_lock(block->device->gpu);
        block->shared = sim_shared_make(sim.state, block->device->gpu, sim.slot, block->taken);
        sim_state_unlock(block->device->gpu);
        if (block->shared)
            block->taken = 0;
        else
            result = MICA_CUDA_OUT_OF_MEMORY;
    }
    if (!result) {
        handle.shared = block->shared;
        handle.bytes = block->bytes;
        memcpy(handle.uuid, block->device->card->uuid, sizeof handle.uuid);
        memset(out, 0, sizeof *out);
        memcpy(out, &handle, sizeof handle);
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

/* A handle that is open already: the same address once more. */
static bool open_again(const struct mica_ctx *ctx, uint64_t shared, CUdeviceptr *pointer)
{
    pthread_mutex_lock(&sim.mutex);
    struct sim_block *block = sim_block_importing(ctx, shared);
    if (block) {
        block->opened_again++;
        *pointer = block->at;
    }
    pthread_mutex_unlock(&sim.mutex);
    return block != NULL;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcHandle raw, unsigned flags)
{
    struct mica_ctx *ctx;
    struct handle handle;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    memcpy(&handle, &raw, sizeof handle);
    if (!pointer || handle.magic != IPC_MAGIC || flags > LAZY_PEER)
        return MICA_CUDA_INVALID_VALUE;
    struct sim_device *device = sim_device_of(ctx);
    if (strncmp(handle.uuid, device->card->uuid, sizeof handle.uuid) != 0)
        return MICA_CUDA_INVALID_DEVICE;
    if (open_again(ctx, handle.shared, pointer))
        return MICA_CUDA_SUCCESS;
    sim_state_lock(device->gpu);
    bool there = sim_shared_hold(sim.state, handle.shared, sim.slot);
    sim_state_unlock(device->gpu);
    if (!there)
        return MICA_CUDA_INVALID_HANDLE;
    return sim_block_add(pointer, (struct sim_block){.bytes = handle.bytes, .ctx = ctx, .device = device, .shared = handle.shared, .imported = true});
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *pointer, CUipcHandle handle, unsigned flags)
{
    return cuIpcOpenMemHandle_v2(pointer, handle, flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer)
{
    struct sim_block block;
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct sim_block *found = sim_block_at(pointer);
    bool ours = found && found->imported && found->at == pointer;
    const bool several = ours && found->opened_again > 0;
    if (several)
        found->opened_again--;
    pthread_mutex_unlock(&sim.mutex);
    if (several)
        return MICA_CUDA_SUCCESS;
    if (!ours || !sim_block_remove(pointer, &block))
        return MICA_CUDA_INVALID_VALUE;
    sim_block_done(&block);
    return MICA_CUDA_SUCCESS;
}

/* External memory: another API (Vulkan) holds it on the card; these cards have no such API, so importing costs nothing here. */

struct mica_external {
    unsigned magic;
    uint64_t size;
    struct mica_ctx *ctx;
};

CUresult cuImportExternalMemory(CUexternal *memory, const CUexternalDesc *desc)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!memory || !desc || !desc->size || desc->type < 1 || desc->type > 9)
        return MICA_CUDA_INVALID_VALUE;
    if (!(*memory = calloc(1, sizeof **memory)))
        return MICA_CUDA_OUT_OF_MEMORY;
    **memory = (struct mica_external){EXTERNAL_MAGIC, desc->size, ctx};
    if (desc->type == 1)
        (void)close(desc->handle.fd); /* the driver owns an imported descriptor */
    return MICA_CUDA_SUCCESS;
}

CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *pointer, CUexternal memory, const CUexternalBufferDesc *desc)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!pointer || !memory || memory->magic != EXTERNAL_MAGIC || !desc || !desc->size || desc->offset > memory->size
        || desc->size > memory->size - desc->offset)
        return MICA_CUDA_INVALID_VALUE;
    return sim_block_add(pointer, (struct sim_block){.bytes = desc->size, .ctx = memory->ctx, .device = sim_device_of(memory->ctx)});
}

CUresult cuDestroyExternalMemory(CUexternal memory)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!memory || memory->magic != EXTERNAL_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    memory->magic = 0;
    free(memory);
    return MICA_CUDA_SUCCESS;
}
