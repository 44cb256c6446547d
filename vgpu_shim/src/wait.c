/* Calls that wait for the card. What was launched before is complete: batches end here, so that pauses of the program are not taken for work. And
 * what was freed is out of the pools. */
#include "gate.h"
#include "memory.h"
#include "meter.h"

/* all: for everything that was launched in the current context; for_everything: by the pools' measure. */
#define WAITS(real, all, for_everything) \
    do { \
        mica_gate_sync(all); \
        CUresult result = (real); \
        mica_gate_synced(); \
        mica_pools_waited(for_everything); \
        return result; \
    } while (0)

CUresult cuCtxSynchronize(void)
{
    WAITS(MICA_REAL(cuCtxSynchronize), true, true);
}

/* Mostly the current one; another's batches end when the helper looks. */
CUresult cuCtxSynchronize_v2(CUcontext context)
{
    WAITS(MICA_REAL(cuCtxSynchronize_v2, context), mica_memory_context() == context, true);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    WAITS(MICA_REAL(cuStreamSynchronize, stream), !mica_meter_explicit(stream) && stream != MICA_STREAM_PER_THREAD, false);
}

CUresult cuStreamSynchronize_ptsz(CUstream stream)
{
    WAITS(MICA_REAL(cuStreamSynchronize_ptsz, stream), false, false);
}

CUresult cuEventSynchronize(CUevent event)
{
    WAITS(MICA_REAL(cuEventSynchronize, event), false, false);
}

/* A batch must not end in a stream that is gone: any thread that waits for the card, and the helper, may be about to record its end. */
static void leave(CUstream stream)
{
    if (atomic_load_explicit(&mica_slice_state, memory_order_acquire) != 1)
        return;
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        if (atomic_load(&meter->context) && atomic_load(&meter->unsettled))
            mica_meter_end(meter, (uintptr_t)stream);
    }
}

/* A capture that began in it goes with it. */
#define DESTROY(stream, real) \
    do { \
        leave(stream); \
        const bool captured = mica_gate_capture_end(stream); \
        CUresult result = (real); \
        if (result && captured) { \
            mica_gate_capture_begins(); \
            mica_gate_capture_began(stream, true); \
        } \
        return result; \
    } while (0)

CUresult cuStreamDestroy(CUstream stream)
{
    DESTROY(stream, MICA_REAL(cuStreamDestroy, stream));
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    DESTROY(stream, MICA_REAL(cuStreamDestroy_v2, stream));
}

/* Whether there are streams that the legacy default one waits for, and they for it. */
static void created(unsigned flags)
{
    enum { NON_BLOCKING = 1 };
    if (!(flags & NON_BLOCKING))
        atomic_store(&mica_meter_blocking, 1);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    created(flags);
    return MICA_REAL(cuStreamCreate, stream, flags);
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority)
{
    created(flags);
    return MICA_REAL(cuStreamCreateWithPriority, stream, flags, priority);
}
