/* How busy the container was of late: counters of the region, sampled when somebody asks. The first answer needs a stretch of time to speak of, so it
 * may wait a tenth of a second. */
#include "front.h"

#include "../src/util.h"

enum { SHORTEST_NS = 100000000, WINDOW_NS = 500000000 };

struct sample {
    uint64_t at, card[MICA_GPUS], slot[MICA_SLOTS][MICA_GPUS];
};

static mica_lock lock;
static struct sample old, fresh; /* answers are about the time from old to fresh */

static void take(struct sample *out)
{
    const struct mica_region *region = mica_nvml_region();
    out->at = mica_now();
    for (int g = 0; g < MICA_GPUS; g++) {
        out->card[g] = region ? atomic_load_explicit(&region->gpus[g].busy, memory_order_relaxed) : 0;
        for (int s = 0; region && s < MICA_SLOTS; s++)
            out->slot[s][g] = atomic_load_explicit(&region->slots[s].busy[g], memory_order_relaxed);
    }
}

void mica_nvml_watch(void)
{
    mica_acquire(&lock);
    if (!old.at)
        take(&old);
    mica_release(&lock);
}

static unsigned percent(uint64_t before, uint64_t after, uint64_t ns)
{
    uint64_t used = after > before ? after - before : 0;
    return used >= ns || !ns ? (used ? 100 : 0) : (unsigned)(used / (ns / 100 + 1));
}

unsigned mica_nvml_busy(int gpu, int slot)
{
    if (gpu < 0)
        return 0;
    mica_nvml_watch();
    mica_acquire(&lock);
    uint64_t now = mica_now();
    while (!fresh.at && now - old.at < SHORTEST_NS) { /* without the lock: a child that is forked meanwhile has nobody to release it */
        const uint64_t left = SHORTEST_NS - (now - old.at);
        mica_release(&lock);
        mica_sleep(left);
        mica_acquire(&lock);
        now = mica_now();
    }
    if (!fresh.at || now - fresh.at >= WINDOW_NS) {
        if (fresh.at)
            old = fresh;
        take(&fresh);
    }
    uint64_t ns = fresh.at - old.at;
    unsigned result = slot < 0 ? percent(old.card[gpu], fresh.card[gpu], ns) : percent(old.slot[slot][gpu], fresh.slot[slot][gpu], ns);
    mica_release(&lock);
    return result;
}
