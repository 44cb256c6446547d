/* See work.h. */
#include "work.h"

static void add_batches(int gpu, int batches)
{
    _Atomic uint32_t *total = &mica_region->gpus[gpu].batches;
    uint32_t old = atomic_load(total), updated;
    do {
        int64_t sum = (int64_t)(old & MICA_BATCHES_MASK) + batches;
        sum = sum < 0 ? 0 : sum > (int64_t)MICA_BATCHES_MASK ? (int64_t)MICA_BATCHES_MASK : sum;
        updated = ((old + MICA_BATCHES_TAG) & ~MICA_BATCHES_MASK) | (uint32_t)sum;
    } while (!atomic_compare_exchange_weak(total, &old, updated));
}

void mica_work_add(int gpu, int64_t ns, int batches)
{
    struct mica_region_slot *slot = mica_ledger_slot();
    if (!slot)
        return;
    atomic_fetch_add(&slot->pending, 1);
    if (batches) {
        atomic_fetch_add(&slot->batches[gpu], (uint64_t)(int64_t)batches);
        add_batches(gpu, batches);
    }
    atomic_fetch_add(&slot->inflight[gpu], ns);
    atomic_fetch_add(&mica_region->gpus[gpu].inflight, ns);
    atomic_fetch_sub(&slot->pending, 1);
}

void mica_work_drop(struct mica_region_slot *slot, int gpu)
{
    uint64_t batches = atomic_exchange(&slot->batches[gpu], 0);
    int64_t inflight = atomic_exchange(&slot->inflight[gpu], 0);
    if (batches)
        add_batches(gpu, -(int)(batches & MICA_BATCHES_MASK));
    if (inflight)
        atomic_fetch_sub(&mica_region->gpus[gpu].inflight, inflight);
}

void mica_work_recount(int gpu)
{
    struct mica_region_gpu *card = &mica_region->gpus[gpu];
    uint32_t before = atomic_load(&card->batches);
    int64_t inflight = atomic_load(&card->inflight), ns = 0;
    uint64_t sum = 0;
    if (mica_ledger_pending())
        return;
    for (unsigned s = 0; s < MICA_SLOTS; s++) {
        sum += atomic_load(&mica_region->slots[s].batches[gpu]) & MICA_BATCHES_MASK;
        ns += atomic_load(&mica_region->slots[s].inflight[gpu]);
    }
    if (mica_ledger_pending() || ((before & MICA_BATCHES_MASK) == sum && inflight == ns))
        return;
    const uint32_t fresh = ((before + MICA_BATCHES_TAG) & ~MICA_BATCHES_MASK) | (uint32_t)(sum & MICA_BATCHES_MASK);
    if (atomic_compare_exchange_strong(&card->batches, &before, fresh))
        atomic_compare_exchange_strong(&card->inflight, &inflight, ns);
}
