/* Virtual memory management: physical memory is charged until its handle is released and its last mapping is gone, whichever comes last. */
#include "imports.h"
#include "memory.h"

/* Whose memory it is: this process's; another's, which is charged for it; or another container's, charged here as far as it is mapped. */
enum { MEMORY_OWN, MEMORY_SHARED, MEMORY_FOREIGN };

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

/* New physical memory under a handle. False without room to remember it. */
static bool remember(CUmemHandle handle, uint64_t bytes, int gpu, unsigned kind)
{
    mica_acquire(&lock);
    uint64_t id = next_id++;
    struct mica_entry memory = {.key = id, .bytes = bytes, .gpu = gpu, .handles = 1, .kind = kind};
    struct mica_entry name = {.key = name_of(handle), .bytes = id};
    bool ok = mica_table_put(&memories, &memory) && mica_table_put(&names, &name);
    mica_release(&lock);
    return ok;
}

CUresult cuMemCreate(CUmemHandle *handle, size_t bytes, const CUmemProp *prop, unsigned long long flags)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    mica_slice_look();
    int gpu = prop ? mica_gpu_of_location(&prop->location) : MICA_GPU_NONE; /* host memory is not the GPU's */
    if ((result = mica_memory_usable(&gpu, MICA_CUDA_OUT_OF_MEMORY)))
        return result;
    if (gpu < 0)
        return MICA_REAL(cuMemCreate, handle, bytes, prop, flags);
    mica_activity_begin();
    if (!mica_charge(gpu, bytes)) {
        mica_activity_end();
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    result = MICA_REAL(cuMemCreate, handle, bytes, prop, flags);
    if (!result && !remember(*handle, bytes, gpu, MEMORY_OWN)) {
        (void)MICA_REAL(cuMemRelease, *handle);
        result = MICA_CUDA_OUT_OF_MEMORY;
    }
    if (result)
        mica_ledger_release(gpu, bytes);
    mica_activity_end();
    return result;
}

CUresult cuMemRelease(CUmemHandle handle)
{
    /* The lock is held across the driver's call: it may give the handle's number to another thread at once. */
    mica_activity_begin();
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemRelease, handle);
    struct mica_entry *memory = result ? NULL : memory_named(handle), gone;
    if (memory) {
        if (--memory->handles == 0)
            (void)mica_table_take(&names, name_of(handle), &gone);
        drop_if_unused(memory);
    }
    mica_release(&lock);
    mica_activity_end();
    return result;
}

/* Another container's memory is charged before it is mapped: its size is not known earlier. Lock held. */
static bool charge_foreign(CUmemHandle handle, uint64_t bytes, size_t offset)
{
    struct mica_entry *memory = memory_named(handle);
    uint64_t end;
    if (!memory || memory->kind != MEMORY_FOREIGN || __builtin_add_overflow(bytes, offset, &end) || end <= memory->bytes)
        return true;
    if (!mica_charge(memory->gpu, end - memory->bytes))
        return false;
    memory->bytes = end;
    return true;
}

CUresult cuMemMap(CUdeviceptr pointer, size_t bytes, size_t offset, CUmemHandle handle, unsigned long long flags)
{
    mica_activity_begin();
    mica_acquire(&lock);
    CUresult result = charge_foreign(handle, bytes, offset) ? MICA_REAL(cuMemMap, pointer, bytes, offset, handle, flags) : MICA_CUDA_OUT_OF_MEMORY;
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
    mica_activity_end();
    return result;
}

/* Lock held: the first mapping at or after an address and before another; 0 when there is none. */
static CUdeviceptr next_mapping(CUdeviceptr from, CUdeviceptr end)
{
    CUdeviceptr found = 0;
    for (size_t i = 0; i < mappings.room; i++) {
        const CUdeviceptr at = mappings.entries[i].key;
        if (at && at >= from && at < end && (!found || at < found))
            found = at;
    }
    return found;
}

CUresult cuMemUnmap(CUdeviceptr pointer, size_t bytes)
{
    mica_activity_begin();
    mica_acquire(&lock);
    CUresult result = MICA_REAL(cuMemUnmap, pointer, bytes);
    const CUdeviceptr end = pointer + bytes;
    struct mica_entry mapping;
    for (CUdeviceptr at = pointer; !result && at && at < end;) {
        if (mica_table_take(&mappings, at, &mapping)) {
            unmapped(&mapping);
            at += mapping.bytes;
        } else {
            at = next_mapping(at, end); /* what lies before is not ours to count: host memory */
        }
    }
    mica_release(&lock);
    mica_activity_end();
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

CUresult cuMemExportToShareableHandle(void *shareable, CUmemHandle handle, int type, unsigned long long flags)
{
    CUresult result = MICA_REAL(cuMemExportToShareableHandle, shareable, handle, type, flags);
    if (result || mica_slice_check())
        return result;
    uint64_t id = mica_shareable_hash(type == 1 ? (void *)(intptr_t)*(int *)shareable : shareable, type); /* 1: a descriptor */
    if (id)
        (void)mica_ledger_export(id);
    return result;
}

static int gpu_of_handle(CUmemHandle handle)
{
    CUmemProp prop = {0};
    bool known = mica_real.cuMemGetAllocationPropertiesFromHandle && mica_real.cuMemGetAllocationPropertiesFromHandle(&prop, handle) == 0;
    return known ? mica_gpu_of_location(&prop.location) : mica_gpu_current();
}

CUresult cuMemImportFromShareableHandle(CUmemHandle *handle, void *shareable, int type)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    uint64_t id = mica_shareable_hash(shareable, type);
    result = MICA_REAL(cuMemImportFromShareableHandle, handle, shareable, type);
    if (result)
        return result;
    mica_acquire(&lock);
    struct mica_entry *memory = memory_named(*handle); /* imported before, or this process's own */
    if (memory)
        memory->handles++;
    mica_release(&lock);
    int gpu = memory ? MICA_GPU_NONE : gpu_of_handle(*handle);
    if (gpu < 0 || remember(*handle, 0, gpu, id && mica_ledger_find_export(id) >= 0 ? MEMORY_SHARED : MEMORY_FOREIGN))
        return MICA_CUDA_SUCCESS;
    (void)MICA_REAL(cuMemRelease, *handle);
    return MICA_CUDA_OUT_OF_MEMORY;
}

void mica_vmm_forked(void)
{
    mica_table_forked(&memories);
    mica_table_forked(&names);
    mica_table_forked(&mappings);
    atomic_store(&lock, 0);
}
