/* How batches end. A closed batch takes no more launches; whoever closes it with nobody inside, or leaves it last, records its end.
 *
 * An event in the legacy default stream is a barrier between all blocking streams. Right behind a launch there, which is one itself, it holds up
 * nobody; some time later it would make streams of the program wait for each other. Then a batch is closed quietly: nothing is recorded, and it is over when
 * the next one of its stream begins, or the stream has nothing left to do. */
#include "meter.h"

#include "gate.h"

enum { ENDING_NAP_NS = 20000 };

_Atomic int mica_meter_blocking;

static bool record(struct mica_batch *batch)
{
    return mica_real.cuEventRecord(batch->end, batch->stream) == 0;
}

/* A default stream is that of the context that is current. */
static bool record_in_context(struct mica_batch *batch)
{
    CUcontext current = NULL, context = atomic_load(&batch->meter->context);
    if (mica_real.cuCtxGetCurrent && mica_real.cuCtxGetCurrent(&current) == 0 && current == context)
        return record(batch);
    if (!mica_real.cuCtxPushCurrent_v2 || !mica_real.cuCtxPopCurrent_v2 || mica_real.cuCtxPushCurrent_v2(context))
        return false;
    const bool recorded = record(batch);
    (void)mica_real.cuCtxPopCurrent_v2(&current);
    return recorded;
}

/* Called once per batch, by whoever closed it last. leaving: with a launch of its own. */
static void finish(struct mica_batch *batch, uint64_t word, bool leaving, int how)
{
    struct mica_batch *expected = batch;
    const int mode = mica_meter_relax_if_captured();
    atomic_compare_exchange_strong(&mica_meter_open_batches[mica_meter_place(atomic_load(&batch->handle))], &expected, NULL);
    mica_meter_give_back(batch, (int64_t)(word & MICA_WORD_LEFT));
    if (leaving)
        batch->blind = !record(batch);
    else if (atomic_load(&batch->meter->resting)) /* its context may be gone */
        batch->blind = true;
    else if (how != MICA_CLOSE_HERE && atomic_load(&mica_meter_blocking) && mica_real.cuStreamQuery
             && mica_meter_is_default(atomic_load(&batch->handle), false))
        batch->quiet = true;
    else
        batch->blind = !(how == MICA_CLOSE_BESIDE ? record_in_context(batch) : record(batch));
    mica_meter_restore(mode);
    atomic_store_explicit(&batch->state, MICA_BATCH_PENDING, memory_order_release);
}

/* True when this call took it off open: `word` is what was left. */
static bool shut(struct mica_batch *batch, uint64_t *word)
{
    const uint64_t turn = *word / MICA_WORD_TURN;
    do {
        if (!(*word & MICA_WORD_OPEN) || *word / MICA_WORD_TURN != turn)
            return false;
    } while (!atomic_compare_exchange_weak(&batch->word, word, *word & ~MICA_WORD_OPEN));
    return true;
}

void mica_meter_close_batch(struct mica_batch *batch, uint64_t word, int how)
{
    if (shut(batch, &word) && !MICA_WORD_ENTERED(word))
        finish(batch, word, false, how);
}

void mica_meter_leave_slow(struct mica_batch *batch, uint64_t word)
{
    if (!(word & MICA_WORD_OPEN)) {
        if (!MICA_WORD_ENTERED(word))
            finish(batch, word, true, MICA_CLOSE_HERE);
    } else if (!MICA_WORD_LAUNCHES(word)) {
        const int passes = batch->passes; /* before we close it; another thread may have done so, and it be another's: as good a number */
        if (shut(batch, &word) && !MICA_WORD_ENTERED(word))
            finish(batch, word, true, MICA_CLOSE_HERE);
        if (passes && !mica_gate_captures())
            atomic_store_explicit(&mica_meter_passes, passes, memory_order_relaxed);
    }
}

/* Closed with nobody inside, and its end is not recorded yet: whoever did that is at it, and uses the stream. */
static bool ending(const struct mica_batch *batch)
{
    const uint64_t word = atomic_load(&batch->word);
    return !(word & MICA_WORD_OPEN) && !MICA_WORD_ENTERED(word) && atomic_load_explicit(&batch->state, memory_order_acquire) == MICA_BATCH_OPEN;
}

/* The open batches of a meter, one after the other; start with *taken = meter->taken. NULL at the end. A thread's own default stream is nobody else's to
 * record in: what runs there ends with its launch. */
static struct mica_batch *next_open(struct mica_meter *meter, uint64_t *taken)
{
    while (*taken) {
        struct mica_batch *batch = &meter->batches[__builtin_ctzll(*taken)];
        *taken &= *taken - 1;
        if (atomic_load(&batch->state) == MICA_BATCH_OPEN && !mica_meter_is_default(atomic_load(&batch->handle), true))
            return batch;
    }
    return NULL;
}

void mica_meter_end(struct mica_meter *meter, uintptr_t handle)
{
    uint64_t taken = atomic_load(&meter->taken);
    for (struct mica_batch *batch; (batch = next_open(meter, &taken));) {
        if (handle && atomic_load(&batch->handle) != handle)
            continue;
        mica_meter_close_batch(batch, atomic_load(&batch->word), MICA_CLOSE_BESIDE);
        while (ending(batch) && (!handle || atomic_load(&batch->handle) == handle)) /* a place in use again may be another stream's */
            mica_sleep(ENDING_NAP_NS);
    }
}

void mica_meter_close(struct mica_meter *meter, int how, bool stale)
{
    uint64_t taken = atomic_load(&meter->taken);
    for (struct mica_batch *batch; (batch = next_open(meter, &taken));) {
        const uint64_t word = atomic_load(&batch->word);
        if (stale && (word != atomic_exchange(&batch->seen, word) || MICA_WORD_ENTERED(word)))
            continue;
        if (stale) /* before it is closed: then it may soon be over, and in use again */
            atomic_store(&batch->late, (uint32_t)(word / MICA_WORD_TURN + 1));
        mica_meter_close_batch(batch, word, how);
    }
}

void mica_meter_close_stream(struct mica_meter *meter, CUstream stream)
{
    const uintptr_t handle = mica_meter_handle(meter, stream);
    struct mica_batch *batch = atomic_load(&mica_meter_open_batches[mica_meter_place(handle)]);
    if (!batch)
        return;
    const uint64_t word = atomic_load(&batch->word);
    mica_meter_close_batch(batch, word, atomic_load(&batch->handle) == handle ? MICA_CLOSE_HERE : MICA_CLOSE_BESIDE);
}

void mica_meter_rest(CUcontext context)
{
    for (int i = 0; context && i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        if (atomic_load(&meter->context) != context)
            continue;
        atomic_fetch_add(&meter->resting, 1);
        for (int b = 0; b < MICA_BATCHES; b++)
            while (ending(&meter->batches[b]))
                mica_sleep(ENDING_NAP_NS);
        mica_acquire(&meter->lock); /* who had it before us is out of the context; who gets it after us sees that it rests */
        mica_release(&meter->lock);
    }
}

void mica_meter_resume(CUcontext context, bool gone)
{
    for (int i = 0; context && i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        if (atomic_load(&meter->context) != context)
            continue;
        mica_acquire(&meter->lock);
        for (int b = 0; gone && b < MICA_BATCHES; b++)
            if (atomic_load(&meter->batches[b].state) != MICA_BATCH_FREE)
                mica_meter_retire(&meter->batches[b]);
        if (gone)
            mica_meter_empty(meter);
        else if (atomic_load(&meter->resting) > 0)
            atomic_fetch_sub(&meter->resting, 1);
        mica_release(&meter->lock);
    }
}
