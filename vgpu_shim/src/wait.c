/* Calls that wait for the card. What was launched before is complete: batches end here, so that pauses of the program are not taken for work. And
 * what was freed is out of the pools. */
#include "gate.h"
#include "memory.h"
#include "meter.h"

#define WAITS(real, for_everything) \
    do { \
        mica_gate_sync(); \
        CUresult result = (real); \
        mica_gate_synced(); \
        mica_pools_waited(for_everything); \
        return result; \
    } while (0)

CUresult cuCtxSynchronize(void)
{
    WAITS(MICA_REAL(cuCtxSynchronize), true);
}

/* Mostly the current one; another's batches end when the helper looks. */
CUresult cuCtxSynchronize_v2(CUcontext context)
{
    WAITS(MICA_REAL(cuCtxSynchronize_v2, context), true);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    WAITS(MICA_REAL(cuStreamSynchronize, stream), false);
}

CUresult cuStreamSynchronize_ptsz(CUstream stream)
{
    WAITS(MICA_REAL(cuStreamSynchronize_ptsz, stream), false);
}

CUresult cuEventSynchronize(CUevent event)
{
    WAITS(MICA_REAL(cuEventSynchronize, event), false);
}

/* A batch must not end in a stream that is gone: the helper records its end later. The helper closes with the lock held. */
static void leave(CUstream stream)
{
    if (atomic_load_explicit(&mica_slice_state, memory_order_acquire) != 1)
        return;
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        if (!atomic_load(&meter->context) || !mica_meter_unsettled(meter))
            continue;
        mica_acquire(&meter->lock);
        mica_meter_close_stream(meter, stream);
        mica_release(&meter->lock);
    }
}

CUresult cuStreamDestroy(CUstream stream)
{
    leave(stream);
    return MICA_REAL(cuStreamDestroy, stream);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    leave(stream);
    return MICA_REAL(cuStreamDestroy_v2, stream);
}
