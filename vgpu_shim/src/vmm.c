/* Virtual memory management: physical memory is charged until its handle is released and its last mapping is gone, whichever comes last. */
#include "memory.h"

/* Two tables under one lock (the first one's): physical memory by an id of ours, and the names it goes by. */
static struct mica_table memories; /* key: id */
static struct mica_table names;    /* key: handle + 1; bytes: id */
static struct mica_table mappings; /* key: address; bytes: length; owner: id */
static mica_lock lock;
static uint64_t next_id = 1;

/* Handles may be 0 or any number. */
static uint64_t name_of(CUmemHandle handle)
{
    return handle + 1;
}

static struct mica_entry *memory_named(CUmemHandle handle)
{
    struct mica_entry *name = mica_table_find(&names, name_of(handle));
    return name ? mica_table_find(&memories, name->bytes) : NULL;
}

/* Lock held. */
static void drop_if_unused(struct mica_entry *memory)
{
    struct mica_entry gone;
    if (memory->handles || memory->mappings)
        return;
    mica_ledger_release(memory->gpu, memory->bytes);
    (void)mica_table_take(&memories, memory->key, &gone);
}

/* Lock held. */
static void unmapped(const struct mica_entry *mapping)
{
    struct mica_entry *memory = mica_table_find(&memories, (uintptr_t)mapping->owner);
    if (memory) {
        memory->mappings--;
        drop_if_unused(memory);
    }
}

CUresult cuMemCreate(CUmemHandle *handle, size_t bytes, const CUmemProp *prop, unsigned long long flags)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    if (!prop || prop->location.type != MICA_LOCATION_DEVICE) /* host memory is not the GPU's */
        return MICA_REAL(cuMemCreate, handle, bytes, prop, flags);
    mica_slice_tick(mica_now());
    int gpu = mica_gpu_of_device(prop->location.id);
    if (prop->location.id < 0 || prop->location.id >= mica_slice.device_count)
        return MICA_REAL(cuMemCreate, handle, bytes, prop, flags); /* the driver has the error */
    if (gpu < 0 && (result = mica_slice_foreign(MICA_CUDA_OUT_OF_MEMORY)))
        return result;
    if (gpu < 0)
        return MICA_REAL(cuMemCreate, handle, bytes, prop, flags);
    if (!mica_charge(gpu, bytes))
        return MICA_CUDA_OUT_OF_MEMORY;
    result = MICA_REAL(cuMemCreate, handle, bytes, prop, flags);
    if (result) {
        mica_ledger_release(gpu, bytes);
        return result;
    }
    mica_acquire(&lock);
    uint64_t id = next_id++;
    struct mica_entry memory = {.key = id, .bytes = bytes, .gpu = gpu, .handles = 1};
    struct mica_entry name = {.key = name_of(*handle), .bytes = id};
    bool ok = mica_table_put(&memories, &memory) && mica_table_put(&names, &name);
    mica_release(&lock);
    if (!ok) {
        (void)MICA_REAL(cuMemRelease, *handle);
        mica_ledger_release(gpu, bytes);
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    return MICA_CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemHandle handle)
{
    /* The lock is held across the driver's call: it may give the handle's number to another thread at once. */
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemRelease, handle);
    struct mica_entry *memory = result ? NULL : memory_named(handle), gone;
    if (memory) {
        if (--memory->handles == 0)
            (void)mica_table_take(&names, name_of(handle), &gone);
        drop_if_unused(memory);
    }
    mica_release(&lock);
    return result;
}

CUresult cuMemMap(CUdeviceptr pointer, size_t bytes, size_t offset, CUmemHandle handle, unsigned long long flags)
{
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemMap, pointer, bytes, offset, handle, flags);
    struct mica_entry *memory = result ? NULL : memory_named(handle);
    if (memory) {
        struct mica_entry mapping = {.key = pointer, .bytes = bytes, .owner = (void *)(uintptr_t)memory->key}, old;
        if (mica_table_take(&mappings, pointer, &old)) /* unmapped by a way we do not see */
            unmapped(&old);
        memory = memory_named(handle); /* the tables may have moved */
        if (mica_table_put(&mappings, &mapping))
            memory->mappings++;
        else
            memory->handles++; /* no room to remember it: charged for good rather than not at all */
    }
    mica_release(&lock);
    return result;
}

CUresult cuMemUnmap(CUdeviceptr pointer, size_t bytes)
{
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemUnmap, pointer, bytes);
    CUdeviceptr at = pointer;
    struct mica_entry mapping;
    while (!result && at - pointer < bytes && mica_table_take(&mappings, at, &mapping)) {
        unmapped(&mapping);
        at += mapping.bytes;
    }
    mica_release(&lock);
    return result;
}

/* Lock held: the mapping that covers an address. Rare call, so a search is enough. */
static struct mica_entry *mapping_over(CUdeviceptr address)
{
    for (size_t i = 0; i < mappings.room; i++) {
        struct mica_entry *at = &mappings.entries[i];
        if (at->key && address >= at->key && address - at->key < at->bytes)
            return at;
    }
    return NULL;
}

CUresult cuMemRetainAllocationHandle(CUmemHandle *handle, void *address)
{
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemRetainAllocationHandle, handle, address);
    struct mica_entry *mapping = result ? NULL : mapping_over((CUdeviceptr)(uintptr_t)address);
    struct mica_entry *memory = mapping ? mica_table_find(&memories, (uintptr_t)mapping->owner) : NULL;
    if (memory) {
        struct mica_entry name = {.key = name_of(*handle), .bytes = memory->key};
        memory->handles++;
        (void)mica_table_put(&names, &name);
    }
    mica_release(&lock);
    return result;
}

void mica_vmm_forked(void)
{
    mica_table_forked(&memories);
    mica_table_forked(&names);
    mica_table_forked(&mappings);
    atomic_store(&lock, 0);
}
