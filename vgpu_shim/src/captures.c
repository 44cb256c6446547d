/* Streams that are being captured, and contexts that may be about to end: when nothing of ours may be added to a stream. */
#include "gate.h"
#include "memory.h"

_Atomic int mica_captures;
static struct mica_table captured; /* key: the stream, or thread, in which a capture began; owner: its context */

bool mica_gate_capturing(CUstream stream)
{
    int status = 0;
    return mica_driver() && mica_real.cuStreamIsCapturing && mica_real.cuStreamIsCapturing(stream, &status) == 0 && status;
}

/* Counted first and looked for after: a batch is opened and then asks whether anything is captured. A stream that joins the capture must not have our
 * end event still to come, whichever context it is in. */
void mica_gate_capture_begins(void)
{
    atomic_fetch_add(&mica_captures, 1);
    if (atomic_load(&mica_slice_state) != 1)
        return;
    for (int i = 0; i < MICA_METERS; i++)
        if (atomic_load(&mica_meters[i].context) && mica_meter_unsettled(&mica_meters[i]))
            mica_meter_end(&mica_meters[i], 0);
}

/* A thread's own default stream has the same name in all threads. */
static uint64_t capture_key(CUstream stream)
{
    return mica_meter_explicit(stream) ? (uintptr_t)stream : mica_current_thread() + 1;
}

void mica_gate_capture_began(CUstream stream, bool worked)
{
    struct mica_entry old = {.key = 0};
    const struct mica_entry entry = {.key = capture_key(stream), .owner = mica_memory_context()};
    if (!mica_meter_explicit(stream))
        atomic_store(&mica_meter_blocking, 1);
    if (!worked || (mica_table_swap(&captured, &entry, &old) && old.key)) /* the one before: its stream is gone */
        atomic_fetch_sub(&mica_captures, 1);
}

bool mica_gate_capture_end(CUstream stream)
{
    struct mica_entry entry;
    const bool known = mica_table_take(&captured, capture_key(stream), &entry);
    if (known)
        atomic_fetch_sub(&mica_captures, 1);
    return known;
}

void mica_gate_rest(CUcontext context)
{
    mica_meter_rest(context);
}

void mica_gate_resume(CUcontext context, bool gone)
{
    struct mica_entry entry;
    mica_meter_resume(context, gone);
    while (gone && mica_table_take_owned(&captured, context, &entry))
        atomic_fetch_sub(&mica_captures, 1);
}

void mica_captures_forked(void)
{
    atomic_store(&mica_captures, 0);
    mica_table_forked(&captured);
}
