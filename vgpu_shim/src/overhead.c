/* See overhead.h. What a process holds by the driver's own count (NVML) less what is charged for its allocations is what contexts, modules, stacks
 * and the driver's own buffers take. Where NVML does not see the process, a context is charged with the least that the card ever had less than
 * all its memory right after one was made, which is never too little, and a module with what the card then has less. */
#include "overhead.h"

#include <sched.h>

#include "current.h"
#include "growth.h"
#include "memory.h"

enum { TRIES = 64, ASK_ANYWAY = 16, REFRESH_NS = 1000000000 };
/* The most that an unmeasured context is charged: above what current drivers take for one. */
#define MOST_UNMEASURED (UINT64_C(768) << 20)
#define MOST_MODULE (UINT64_C(1) << 30)

static _Atomic int64_t outside[MICA_GPUS];
static _Atomic int64_t managed[MICA_GPUS]; /* bytes */
static _Atomic int watched[MICA_GPUS]; /* this process has had a context here */
static mica_lock lock;                 /* one measurement at a time */
static _Atomic uint64_t owner;         /* thread that has it */
static uint64_t refreshed_at;

/* Calls under way that make the overhead larger, and what was seen when it was last accounted for. Guarded by lock. */
static struct {
    int under_way;
    bool seen;    /* NVML saw this process: rest is known */
    int64_t rest; /* what it holds less what is charged for its allocations, but managed ones */
    uint64_t free; /* the card's, 0 = unknown */
    uint64_t reserved;   /* of what contexts under way were seen to take */
} growing[MICA_GPUS];

/* Never held while the driver does what the program asked for: an instrument that is told of it may load code of its own, or wait for a thread that
 * does. The driver is asked for this and that with it held; what an instrument does then is not counted, and found by the next measurement. */
static bool enter(void)
{
    const uint64_t self = mica_current_thread();
    if (atomic_load(&owner) == self)
        return false;
    mica_acquire(&lock);
    atomic_store(&owner, self);
    return true;
}

static void leave(void)
{
    atomic_store(&owner, 0);
    mica_release(&lock);
}

void mica_overhead_outside(int gpu, int64_t change)
{
    atomic_fetch_add(&outside[gpu], change);
}

void mica_overhead_managed(int gpu, int64_t change)
{
    atomic_fetch_add(&managed[gpu], change);
}

static uint64_t charged(int gpu)
{
    return mica_ledger_overhead(gpu, MICA_CONTEXT) + mica_ledger_overhead(gpu, MICA_MODULE);
}

/* Lower by that much, the part that is meant first. */
static void lower(int gpu, enum mica_part part, uint64_t bytes)
{
    uint64_t first = mica_ledger_overhead(gpu, part), now = bytes < first ? bytes : first;
    mica_ledger_add_overhead(gpu, part, -(int64_t)now);
    mica_ledger_add_overhead(gpu, part == MICA_MODULE ? MICA_CONTEXT : MICA_MODULE, -(int64_t)(bytes - now));
    mica_ledger_release(gpu, bytes);
}

static bool raise_by(int gpu, enum mica_part part, uint64_t bytes, bool may_refuse)
{
    if (may_refuse && !mica_charge(gpu, bytes))
        return false;
    if (!may_refuse)
        mica_charge_taken(gpu, bytes);
    mica_ledger_add_overhead(gpu, part, (int64_t)bytes);
    return true;
}

static bool set(int gpu, enum mica_part part, uint64_t wanted, bool may_refuse)
{
    uint64_t now = charged(gpu);
    if (wanted < now)
        lower(gpu, part, now - wanted);
    return wanted <= now || raise_by(gpu, part, wanted - now, may_refuse);
}

/* What is charged for this process's allocations, or was at any moment since so much had been `released`: no more than this. */
static uint64_t allocated(int gpu, uint64_t released)
{
    const int64_t elsewhere = atomic_load(&outside[gpu]); /* first: what is imported between the two is charged, and seems to be held here */
    const int64_t own = (int64_t)(mica_ledger_charged(gpu) - released - charged(gpu)) - elsewhere;
    return own > 0 ? (uint64_t)own : 0;
}

enum seen {
    UNSEEN, /* NVML does not say what this process holds */
    MOVING, /* it was allocated or freed all the time: held less data is not too much, but may be too little */
    STILL
};

struct measured {
    uint64_t held; /* by this process, as NVML says */
    uint64_t data; /* charged for its allocations */
    int64_t managed; /* of it: managed memory */
};

/* All of it at one moment: nothing is allocated or freed meanwhile. Where that cannot be had: what is charged is more than NVML can have seen, so that
 * what others allocate and free again while NVML is asked is not taken for overhead. Each byte is charged before it is held and until it is no longer, but
 * for what a call that is under way took beyond what it had reserved. */
static enum seen measure(int gpu, struct measured *m, int tries)
{
    uint64_t most = 0;
    mica_pools_settle(); /* which shrink when the host waits, before their charge does */
    while (tries-- > 0) {
        const uint64_t before = atomic_load(&mica_activity), released = mica_ledger_released(gpu);
        const bool still = (uint32_t)before == 0;
        if (!still && tries % ASK_ANYWAY) {
            sched_yield();
            continue;
        }
        if (!mica_nvml_own_bytes(mica_region->gpus[gpu].uuid, &m->held))
            return UNSEEN;
        m->data = allocated(gpu, released);
        m->managed = atomic_load(&managed[gpu]);
        if (still && atomic_load(&mica_activity) == before)
            return STILL;
        most = m->held > m->data && m->held - m->data > most ? m->held - m->data : most;
    }
    m->held = most;
    m->data = 0;
    return MOVING;
}

/* What the card has free, by the driver's count; 0 when there is no context to ask in. */
static uint64_t card_free(uint64_t *total)
{
    size_t free_bytes = 0, all = 0;
    if (!mica_real.cuMemGetInfo_v2 || mica_real.cuMemGetInfo_v2(&free_bytes, &all))
        return 0;
    *total = all;
    return free_bytes;
}

static uint64_t moved(uint64_t bytes, int64_t change)
{
    return change < 0 && (uint64_t)-change > bytes ? 0 : bytes + (uint64_t)change;
}

/* Bytes that the card has less since this was last asked, and from now on; 0 also when that must be a neighbour's doing. */
static uint64_t shrunk(int gpu)
{
    uint64_t total, before = growing[gpu].free, now = before ? card_free(&total) : 0;
    growing[gpu].free = now;
    return now && before > now && before - now <= MOST_MODULE ? before - now : 0;
}

/* The change of what the process holds beyond its allocations since this was last asked; what comes to the card of managed memory meanwhile is in it. */
static int64_t grown(int gpu, const struct measured *m)
{
    const int64_t before = growing[gpu].rest, rest = (int64_t)(m->held - m->data) + m->managed;
    const bool known = growing[gpu].seen;
    growing[gpu].rest = rest;
    growing[gpu].seen = true;
    return known ? rest - before : 0;
}

/* What others under way have taken so far is accounted for before another one begins, so that nothing counts twice. */
void mica_growth_begin(struct mica_growth *g, int gpu, enum mica_part part)
{
    struct measured m = {0};
    uint64_t total;
    *g = (struct mica_growth){.gpu = gpu, .part = part};
    if (gpu < 0)
        return;
    if (!enter()) {
        g->gpu = MICA_GPU_NONE;
        return;
    }
    const bool first = growing[gpu].under_way++ == 0, seen = measure(gpu, &m, 1) == STILL;
    if (first) {
        growing[gpu].seen = false;
        if (seen)
            (void)grown(gpu, &m);
        growing[gpu].free = part == MICA_MODULE && !seen ? card_free(&total) : 0;
    } else if (seen && m.managed > 0) {
        (void)set(gpu, part, moved(charged(gpu), grown(gpu, &m)), false);
    } else if (!seen && part == MICA_MODULE) {
        if (growing[gpu].free)
            (void)raise_by(gpu, part, shrunk(gpu), false);
        else
            growing[gpu].free = card_free(&total);
    }
    leave();
}

/* The context that was just made is not current yet, perhaps. */
static uint64_t unmeasured_context(int gpu, CUcontext context)
{
    CUcontext back;
    uint64_t total = 0, used, learned = atomic_load(&mica_region->gpus[gpu].learned_context);
    bool pushed = mica_real.cuCtxPushCurrent_v2 && mica_real.cuCtxPopCurrent_v2 && mica_real.cuCtxPushCurrent_v2(context) == 0;
    uint64_t free_bytes = pushed ? card_free(&total) : 0;
    if (pushed)
        (void)mica_real.cuCtxPopCurrent_v2(&back);
    used = !total ? MOST_UNMEASURED : total > free_bytes ? total - free_bytes : 0;
    used = used < MOST_UNMEASURED ? used : MOST_UNMEASURED;
    return learned && learned < used ? learned : used;
}

static bool end_unseen(const struct mica_growth *g, CUcontext context)
{
    if (g->part == MICA_CONTEXT) {
        uint64_t bytes = unmeasured_context(g->gpu, context);
        atomic_store(&mica_region->gpus[g->gpu].learned_context, bytes);
        return charged(g->gpu) >= bytes || raise_by(g->gpu, MICA_CONTEXT, bytes - charged(g->gpu), true);
    }
    const uint64_t bytes = shrunk(g->gpu);
    return !bytes || raise_by(g->gpu, MICA_MODULE, bytes, true);
}

/* What the process holds beyond its allocations, and what contexts under way will. */
static uint64_t beyond(int gpu, const struct measured *m)
{
    return (m->held > m->data ? m->held - m->data : 0) + growing[gpu].reserved;
}

/* Lock held. */
static bool end_locked(const struct mica_growth *g, CUresult result, CUcontext context)
{
    struct measured m = {0};
    bool fits = true;
    growing[g->gpu].under_way--;
    growing[g->gpu].reserved -= g->reserved;
    const enum seen seen = result ? UNSEEN : measure(g->gpu, &m, TRIES);
    if (seen == STILL) {
        const int64_t change = grown(g->gpu, &m);
        if (m.managed > 0) /* only the difference says something */
            fits = set(g->gpu, g->part, moved(charged(g->gpu) - g->reserved, change), true);
        else
            fits = set(g->gpu, g->part, beyond(g->gpu, &m), true);
        if (g->part == MICA_CONTEXT && fits && mica_ledger_overhead(g->gpu, MICA_CONTEXT))
            atomic_store(&mica_region->gpus[g->gpu].learned_context, mica_ledger_overhead(g->gpu, MICA_CONTEXT));
        atomic_store(&watched[g->gpu], 1);
    } else if (seen == MOVING) { /* what is missing is found by a refresh */
        const uint64_t least = m.managed > 0 ? 0 : beyond(g->gpu, &m);
        fits = least <= charged(g->gpu) || set(g->gpu, g->part, least, true);
        atomic_store(&watched[g->gpu], 1);
    } else if (!result) {
        fits = end_unseen(g, context);
    }
    if (result || !fits)
        lower(g->gpu, g->part, g->reserved < charged(g->gpu) ? g->reserved : charged(g->gpu));
    return fits;
}

/* False when what was taken does not fit: the call must be undone. Ends what begin began. */
bool mica_growth_end(struct mica_growth *g, CUresult result, CUcontext context)
{
    if (g->gpu < 0 || !enter()) /* an instrument of our own question cannot have begun one */
        return true;
    const bool fits = end_locked(g, result, context);
    leave();
    return fits;
}

/* Reserve what the first context of this process will take, as far as that is known. */
static bool reserve(struct mica_growth *g)
{
    const uint64_t learned = atomic_load(&mica_region->gpus[g->gpu].learned_context);
    if (!learned || learned > MICA_USED_MASK || !enter())
        return true;
    const bool first = !charged(g->gpu), fits = !first || raise_by(g->gpu, MICA_CONTEXT, learned, true);
    g->reserved = first && fits ? learned : 0;
    growing[g->gpu].reserved += g->reserved;
    growing[g->gpu].under_way -= !fits;
    leave();
    return fits;
}

/* A context is about to be made. */
CUresult mica_growth_begin_context(struct mica_growth *g, CUdevice device, bool counted)
{
    *g = (struct mica_growth){.gpu = MICA_GPU_NONE};
    CUresult result = mica_slice_check();
    int gpu = result || !counted ? MICA_GPU_NONE : mica_gpu_of_device(device);
    if (result || gpu < 0)
        return result;
    mica_growth_begin(g, gpu, MICA_CONTEXT);
    return g->gpu < 0 || reserve(g) ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

static void refresh(int gpu, int tries)
{
    struct measured m = {0};
    if (atomic_load(&managed[gpu]) > 0 || measure(gpu, &m, tries) != STILL || m.managed > 0) /* also where it has come meanwhile */
        return;
    (void)set(gpu, MICA_MODULE, beyond(gpu, &m), false);
}

void mica_overhead_refresh(void)
{
    if (!enter())
        return;
    for (int gpu = 0; gpu < MICA_GPUS; gpu++)
        if (atomic_load_explicit(&watched[gpu], memory_order_relaxed))
            refresh(gpu, TRIES);
    leave();
}

void mica_overhead_tick(uint64_t now)
{
    if (now - refreshed_at < REFRESH_NS || !mica_try(&lock))
        return;
    atomic_store(&owner, mica_current_thread());
    refreshed_at = now;
    int gpu = mica_gpu_current(); /* the runtime makes its context past every hook */
    if (gpu >= 0)
        atomic_store(&watched[gpu], 1);
    for (gpu = 0; gpu < MICA_GPUS; gpu++)
        if (atomic_load_explicit(&watched[gpu], memory_order_relaxed))
            refresh(gpu, 1);
    leave();
}

void mica_overhead_forked(void)
{
    for (int gpu = 0; gpu < MICA_GPUS; gpu++) {
        atomic_store(&outside[gpu], 0);
        atomic_store(&managed[gpu], 0);
        atomic_store(&watched[gpu], 0);
        growing[gpu].under_way = 0;
        growing[gpu].reserved = 0;
    }
    atomic_store(&owner, 0);
    atomic_store(&lock, 0);
    mica_nvml_forked();
}
