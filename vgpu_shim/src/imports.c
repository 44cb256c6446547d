/* Memory that somebody else allocated. What a process of this container exported is charged to that process already and costs nothing here;
 * anything else is charged with its size. When the exporter is gone and the memory is still open, whoever has it open takes the charge over. */
#include "imports.h"

#include <sys/stat.h>

#include "memory.h"
#include "overhead.h"

enum { OPENED_FREE, OPENED_CHARGED };
enum { HANDLE_FD = 1, HANDLE_FABRIC = 8, FABRIC_BYTES = 64 };

/* key: address; handles: place among the exports; owner: the export's hash; kind: whether it is charged here; mappings: times it was opened again */
static struct mica_table opened;
static struct mica_table externals; /* key: handle */

static uint64_t hash(const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < count; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h ? h : 1;
}

uint64_t mica_shareable_hash(const void *shareable, int type)
{
    struct stat st;
    if (type == HANDLE_FABRIC)
        return hash(shareable, FABRIC_BYTES);
    if (type != HANDLE_FD || fstat((int)(intptr_t)shareable, &st) != 0)
        return 0;
    const uint64_t file[2] = {st.st_dev, st.st_ino};
    return hash(file, sizeof file);
}

CUresult cuIpcGetMemHandle(CUipcHandle *handle, CUdeviceptr pointer)
{
    CUdeviceptr base = pointer;
    CUresult result = MICA_REAL(cuIpcGetMemHandle, handle, pointer);
    if (result || mica_slice_check())
        return result;
    if (mica_real.cuMemGetAddressRange_v2)
        (void)mica_real.cuMemGetAddressRange_v2(&base, NULL, pointer);
    int place = mica_ledger_export(hash(handle, sizeof *handle));
    if (place >= 0)
        mica_memory_exported(base, (unsigned)place);
    return result;
}

static uint64_t size_of(CUdeviceptr pointer)
{
    size_t bytes = 0;
    return mica_real.cuMemGetAddressRange_v2 && mica_real.cuMemGetAddressRange_v2(NULL, &bytes, pointer) == 0 ? bytes : 0;
}

/* One opening fewer (-1), or back again; false when there is only one. */
static bool closes_one_of_several(CUdeviceptr pointer, int change)
{
    mica_acquire(&opened.lock);
    struct mica_entry *entry = mica_table_find(&opened, pointer);
    const bool several = entry && (entry->mappings || change > 0);
    if (several)
        entry->mappings += (unsigned)change;
    mica_release(&opened.lock);
    return several;
}

enum kept { KEPT, FULL, NOWHERE };

/* A handle may be opened more than once: it has one address, and is closed with its last opening. Charged and put into the table in one step: what is
 * charged is found there by whoever opens the same. FULL: it does not fit. NOWHERE: no memory to remember it. Lock held. */
static enum kept keep(const struct mica_entry *entry)
{
    struct mica_entry old, *place = mica_table_find(&opened, entry->key);
    if (place && place->owner == entry->owner) {
        place->mappings++;
        return KEPT;
    }
    if (place && place->kind == OPENED_CHARGED) { /* closed by a way we do not see: the address is another's now */
        mica_ledger_release(place->gpu, place->bytes);
        place->kind = OPENED_FREE;
    }
    if (entry->kind == OPENED_CHARGED && !mica_charge_try(entry->gpu, entry->bytes))
        return FULL;
    place = mica_table_claim(&opened, entry->key, &old);
    if (place)
        *place = *entry;
    else if (entry->kind == OPENED_CHARGED)
        mica_ledger_release(entry->gpu, entry->bytes);
    return place ? KEPT : NOWHERE;
}

/* Memory was opened: charge it or not, and remember. */
static CUresult remember(int gpu, CUdeviceptr pointer, uint64_t id)
{
    const int place = mica_ledger_find_export(id);
    struct mica_entry entry = {.key = pointer, .bytes = size_of(pointer), .gpu = gpu, .owner = (void *)(uintptr_t)id, .kind = OPENED_FREE};
    entry.handles = place < 0 ? UINT32_MAX : (unsigned)place;
    if (place < 0)
        entry.kind = OPENED_CHARGED;
    for (int step = 0;; step++) {
        mica_acquire(&opened.lock);
        const enum kept kept = keep(&entry);
        mica_release(&opened.lock);
        if (kept != FULL || !mica_charge_make_room(gpu, entry.bytes, step))
            return kept == KEPT ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
    }
}

static CUresult open_handle(CUdeviceptr *pointer, CUipcHandle handle, unsigned flags, __typeof__(cuIpcOpenMemHandle) *call)
{
    int gpu;
    CUresult result = mica_memory_gate(&gpu);
    if (result)
        return result;
    if (!call)
        return mica_driver_absent();
    mica_activity_begin();
    result = call(pointer, handle, flags);
    if (!result && gpu >= 0 && (result = remember(gpu, *pointer, hash(&handle, sizeof handle)))) {
        (void)MICA_REAL(cuIpcCloseMemHandle, *pointer);
        *pointer = 0;
    }
    mica_activity_end();
    return result;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcHandle handle, unsigned flags)
{
    return open_handle(pointer, handle, flags, mica_driver() ? mica_real.cuIpcOpenMemHandle_v2 : NULL);
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *pointer, CUipcHandle handle, unsigned flags)
{
    return open_handle(pointer, handle, flags, mica_driver() ? mica_real.cuIpcOpenMemHandle : NULL);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer)
{
    struct mica_entry entry;
    mica_activity_begin();
    const bool several = closes_one_of_several(pointer, -1);
    bool known = !several && mica_table_take(&opened, pointer, &entry);
    CUresult result = MICA_REAL(cuIpcCloseMemHandle, pointer);
    if (several && result) {
        (void)closes_one_of_several(pointer, 1);
    } else if (known && result) {
        (void)mica_table_put(&opened, &entry);
    } else if (known && entry.kind == OPENED_CHARGED) {
        mica_ledger_release(entry.gpu, entry.bytes);
        mica_ledger_drop_export((int)entry.handles, (uintptr_t)entry.owner);
    }
    mica_activity_end();
    return result;
}

void mica_imports_adopt(void)
{
    if (!opened.count || !mica_try(&opened.lock))
        return;
    for (size_t i = 0; i < opened.room; i++) {
        struct mica_entry *entry = &opened.entries[i];
        if (!entry->key || entry->kind == OPENED_CHARGED || !mica_ledger_adopt_export((int)entry->handles, (uintptr_t)entry->owner))
            continue;
        entry->kind = OPENED_CHARGED;
        mica_charge_taken(entry->gpu, entry->bytes);
    }
    mica_release(&opened.lock);
}

static CUresult import_external(int gpu, CUexternal *memory, const CUexternalDesc *desc)
{
    if (!mica_charge(gpu, desc->size))
        return MICA_CUDA_OUT_OF_MEMORY;
    CUresult result = MICA_REAL(cuImportExternalMemory, memory, desc);
    const struct mica_entry entry = {.key = result ? 0 : (uintptr_t)*memory, .bytes = desc->size, .gpu = gpu};
    if (!result && mica_table_put(&externals, &entry)) {
        mica_overhead_outside(gpu, (int64_t)desc->size);
        return MICA_CUDA_SUCCESS;
    }
    if (!result)
        (void)MICA_REAL(cuDestroyExternalMemory, *memory);
    mica_ledger_release(gpu, desc->size);
    return result ? result : MICA_CUDA_OUT_OF_MEMORY;
}

/* Another API's memory (Vulkan, for one), which nobody else charges. */
CUresult cuImportExternalMemory(CUexternal *memory, const CUexternalDesc *desc)
{
    int gpu;
    CUresult result = mica_memory_gate(&gpu);
    if (result)
        return result;
    if (gpu < 0 || !memory || !desc)
        return MICA_REAL(cuImportExternalMemory, memory, desc);
    mica_activity_begin();
    result = import_external(gpu, memory, desc);
    mica_activity_end();
    return result;
}

CUresult cuDestroyExternalMemory(CUexternal memory)
{
    struct mica_entry entry;
    mica_activity_begin();
    bool known = mica_table_take(&externals, (uintptr_t)memory, &entry);
    CUresult result = MICA_REAL(cuDestroyExternalMemory, memory);
    if (known && result)
        (void)mica_table_put(&externals, &entry);
    if (known && !result) {
        mica_overhead_outside(entry.gpu, -(int64_t)entry.bytes); /* first: never more of what is charged */
        mica_ledger_release(entry.gpu, entry.bytes);
    }
    mica_activity_end();
    return result;
}

void mica_imports_forked(void)
{
    mica_table_forked(&opened);
    mica_table_forked(&externals);
}
