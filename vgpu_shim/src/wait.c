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
