/* Virtual memory management: physical memory lives until its handle is released and its last mapping is gone. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct physical {
    CUmemHandle handle;
    uint64_t bytes;
    struct sim_device *device; /* NULL: host memory, not charged */
    unsigned handles, mappings;
    uint64_t shared; /* id, when exported or imported */
    struct physical *next;
};

struct range {
    CUdeviceptr at;
    uint64_t bytes;
    struct physical *mapped; /* NULL for a reservation */
    struct range *next;
};

static struct physical *memories;
static struct range *reservations, *mappings;
static CUmemHandle next_handle = 0x10000;

/* All helpers are called with sim.mutex held. */
static struct physical *by_handle(CUmemHandle handle)
{
    struct physical *at = memories;
    while (at && !(at->handle == handle && at->handles))
        at = at->next;
    return at;
}

static struct range *covering(struct range *list, CUdeviceptr pointer, uint64_t bytes)
{
    while (list && !(pointer >= list->at && pointer - list->at < list->bytes && bytes <= list->bytes - (pointer - list->at)))
        list = list->next;
    return list;
}

static bool overlaps(const struct range *list, CUdeviceptr pointer, uint64_t bytes)
{
    while (list && (pointer >= list->at + list->bytes || list->at >= pointer + bytes))
        list = list->next;
    return list != NULL;
}

static bool add(struct range **list, CUdeviceptr at, uint64_t bytes, struct physical *mapped)
{
    struct range *range = malloc(sizeof *range);
    if (range)
        *range = (struct range){.at = at, .bytes = bytes, .mapped = mapped, .next = *list}, *list = range;
    return range != NULL;
}

static void drop_if_unused(struct physical *memory)
{
    if (memory->handles || memory->mappings)
        return;
    for (struct physical **at = &memories; *at; at = &(*at)->next)
        if (*at == memory) {
            *at = memory->next;
            break;
        }
    if (memory->shared) {
        sim_state_lock(memory->device->gpu);
        sim_shared_drop(sim.state, memory->shared, sim.slot);
        sim_state_unlock(memory->device->gpu);
    } else if (memory->device) {
        sim_give(memory->device, memory->bytes);
    }
    free(memory);
}

static bool aligned(uint64_t value)
{
    return value && value % sim.config.memory.granularity == 0;
}

bool sim_vmm_covers(CUdeviceptr pointer, size_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    bool ok = covering(mappings, pointer, bytes) != NULL;
    pthread_mutex_unlock(&sim.mutex);
    return ok;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemProp *prop, int option)
{
    CUresult result = sim_check();
    if (!result && (!granularity || !prop || option < 0 || option > 1))
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *granularity = sim.config.memory.granularity;
    return result;
}

CUresult cuMemCreate(CUmemHandle *handle, size_t bytes, const CUmemProp *prop, unsigned long long flags)
{
    struct sim_device *device = NULL;
    CUresult result = sim_check();
    if (result)
        return result;
    if (!handle || !prop || prop->type != 1 || flags || !aligned(bytes))
        return MICA_CUDA_INVALID_VALUE;
    if (prop->location.type == MICA_LOCATION_DEVICE) {
        result = sim_device(prop->location.id, &device);
        if (!result)
            result = sim_take(device, bytes);
    } else if (prop->location.type < 2 || prop->location.type > 4) {
        result = MICA_CUDA_INVALID_VALUE;
    }
    if (result)
        return result;
    struct physical *memory = malloc(sizeof *memory);
    if (!memory) {
        if (device)
            sim_give(device, bytes);
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&sim.mutex);
    *memory = (struct physical){.handle = next_handle++, .bytes = bytes, .device = device, .handles = 1, .next = memories};
    memories = memory;
    *handle = memory->handle;
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemHandle handle)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct physical *memory = by_handle(handle);
    if (memory) {
        memory->handles--;
        drop_if_unused(memory);
    } else {
        result = MICA_CUDA_INVALID_VALUE;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t bytes, size_t align, CUdeviceptr hint, unsigned long long flags)
{
    (void)hint; /* a hint may be ignored */
    CUresult result = sim_check();
    if (result)
        return result;
    if (!pointer || flags || !aligned(bytes) || (align & (align - 1)))
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    CUdeviceptr at = sim_address_take(bytes, align > sim.config.memory.granularity ? align : sim.config.memory.granularity);
    if (!add(&reservations, at, bytes, NULL))
        result = MICA_CUDA_OUT_OF_MEMORY;
    else
        *pointer = at;
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemAddressFree(CUdeviceptr pointer, size_t bytes)
{
    CUresult result = sim_check();
    if (result)
        return result;
    result = MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    for (struct range **at = &reservations; *at; at = &(*at)->next)
        if ((*at)->at == pointer && (*at)->bytes == bytes && !overlaps(mappings, pointer, bytes)) {
            struct range *gone = *at;
            *at = gone->next;
            free(gone);
            result = MICA_CUDA_SUCCESS;
            break;
        }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemMap(CUdeviceptr pointer, size_t bytes, size_t offset, CUmemHandle handle, unsigned long long flags)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct physical *memory = by_handle(handle);
    if (!memory || flags || offset || !aligned(bytes) || bytes > memory->bytes || !covering(reservations, pointer, bytes)
        || overlaps(mappings, pointer, bytes))
        result = MICA_CUDA_INVALID_VALUE;
    else if (!add(&mappings, pointer, bytes, memory))
        result = MICA_CUDA_OUT_OF_MEMORY;
    else
        memory->mappings++;
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemUnmap(CUdeviceptr pointer, size_t bytes)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    uint64_t inside = 0;
    for (struct range *at = mappings; at; at = at->next)
        if (at->at >= pointer && at->at + at->bytes <= pointer + bytes)
            inside += at->bytes;
    if (!bytes || inside != bytes) /* whole mappings only, without holes */
        result = MICA_CUDA_INVALID_VALUE;
    for (struct range **at = &mappings; !result && *at;) {
        struct range *range = *at;
        if (range->at < pointer || range->at + range->bytes > pointer + bytes) {
            at = &range->next;
            continue;
        }
        *at = range->next;
        range->mapped->mappings--;
        drop_if_unused(range->mapped);
        free(range);
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemSetAccess(CUdeviceptr pointer, size_t bytes, const CUmemAccess *access, size_t count)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    if (!access || !count || !overlaps(mappings, pointer, bytes))
        result = MICA_CUDA_INVALID_VALUE;
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemRetainAllocationHandle(CUmemHandle *handle, void *address)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct range *range = covering(mappings, (CUdeviceptr)(uintptr_t)address, 1);
    if (!handle || !range)
        result = MICA_CUDA_INVALID_VALUE;
    else {
        if (range->mapped->handles == 0)
            range->mapped->handle = next_handle++;
        range->mapped->handles++;
        *handle = range->mapped->handle;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

/* Sharing with other processes: a descriptor of a small file that says which memory it is. */

enum { SHARE_MAGIC = 0x564d4d31, HANDLE_FD = 1 };
struct share { uint32_t magic; int32_t gpu; uint64_t shared, bytes; };

static int share_file(const struct share *share)
{
    int fd = (int)syscall(SYS_memfd_create, "mica-sim", 1u /* close on exec */);
    if (fd >= 0 && write(fd, share, sizeof *share) != (ssize_t)sizeof *share) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

CUresult cuMemExportToShareableHandle(void *shareable, CUmemHandle handle, int type, unsigned long long flags)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (type != HANDLE_FD)
        return MICA_CUDA_NOT_SUPPORTED;
    pthread_mutex_lock(&sim.mutex);
    struct physical *memory = by_handle(handle);
    if (!shareable || flags || !memory || !memory->device)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result && !memory->shared) {
        sim_state_lock(memory->device->gpu);
        memory->shared = sim_shared_make(sim.state, memory->device->gpu, sim.slot, memory->bytes);
        sim_state_unlock(memory->device->gpu);
    }
    if (!result) {
        const struct share share = {SHARE_MAGIC, memory->device->gpu, memory->shared, memory->bytes};
        int fd = memory->shared ? share_file(&share) : -1;
        if (fd < 0)
            result = MICA_CUDA_OUT_OF_MEMORY;
        else
            memcpy(shareable, &fd, sizeof fd);
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuMemImportFromShareableHandle(CUmemHandle *handle, void *shareable, int type)
{
    struct share share = {0};
    CUresult result = sim_check();
    if (result)
        return result;
    if (type != HANDLE_FD)
        return MICA_CUDA_NOT_SUPPORTED;
    int fd = (int)(intptr_t)shareable; /* the value itself, as the API has it */
    struct sim_device *device = NULL;
    if (!handle || pread(fd, &share, sizeof share, 0) != (ssize_t)sizeof share || share.magic != SHARE_MAGIC)
        return MICA_CUDA_INVALID_VALUE;
    for (int d = 0; d < sim.config.count; d++)
        if (sim.devices[d].gpu == share.gpu)
            device = &sim.devices[d];
    if (!device)
        return MICA_CUDA_INVALID_DEVICE;
    pthread_mutex_lock(&sim.mutex);
    struct physical *memory = memories;
    while (memory && memory->shared != share.shared)
        memory = memory->next;
    if (memory) { /* this process has it already */
        memory->handle = memory->handles ? memory->handle : next_handle++;
        memory->handles++;
        *handle = memory->handle;
    } else if ((memory = malloc(sizeof *memory))) {
        sim_state_lock(device->gpu);
        bool there = sim_shared_hold(sim.state, share.shared, sim.slot);
        sim_state_unlock(device->gpu);
        *memory = (struct physical){.handle = next_handle++, .bytes = share.bytes, .device = device, .handles = 1, .shared = share.shared, .next = memories};
        if (there) {
            memories = memory;
            *handle = memory->handle;
        } else {
            free(memory);
            result = MICA_CUDA_INVALID_HANDLE;
        }
    } else {
        result = MICA_CUDA_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}
