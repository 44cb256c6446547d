/* Memory that processes of the container share: who is charged for it. See ledger.h. */
#include "ledger.h"

#include "util.h"

int mica_ledger_find_export(uint64_t handle)
{
    for (int i = 0; handle && i < MICA_EXPORTS; i++)
        if (atomic_load(&mica_region->exports[i].handle) == handle)
            return i;
    return -1;
}

int mica_ledger_export(uint64_t handle)
{
    uint64_t self = mica_ledger_identity();
    int place = mica_ledger_find_export(handle);
    if (!self)
        return -1;
    if (place < 0)
        place = (int)(atomic_fetch_add(&mica_region->export_count, 1) % MICA_EXPORTS);
    atomic_store(&mica_region->exports[place].owner, self);
    atomic_store(&mica_region->exports[place].handle, handle);
    return place;
}

static bool is_gone(uint64_t owner)
{
    uint64_t slot = (owner >> 32) - 1;
    if (!owner || slot >= MICA_SLOTS)
        return true;
    const struct mica_region_slot *at = &mica_region->slots[slot];
    return atomic_load(&at->state) == MICA_SLOT_FREE || atomic_load(&at->generation) != (uint32_t)owner;
}

bool mica_ledger_adopt_export(int place, uint64_t handle)
{
    uint64_t self = mica_ledger_identity();
    if (!self || place < 0 || place >= MICA_EXPORTS)
        return false;
    struct mica_region_export *at = &mica_region->exports[place];
    if (atomic_load(&at->handle) != handle)
        return true; /* forgotten: nobody can tell any more who is charged */
    uint64_t owner = atomic_load(&at->owner);
    return is_gone(owner) && atomic_compare_exchange_strong(&at->owner, &owner, self);
}

void mica_ledger_drop_export(int place, uint64_t handle)
{
    uint64_t self = mica_ledger_identity();
    if (!self || place < 0 || place >= MICA_EXPORTS)
        return;
    struct mica_region_export *at = &mica_region->exports[place];
    if (!handle || atomic_load(&at->handle) == handle)
        (void)atomic_compare_exchange_strong(&at->owner, &self, 0);
}
