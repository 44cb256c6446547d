/* Calls that wait for the card. What was launched before is complete: batches end here, so that pauses of the program are not taken for work. And
 * what was freed is out of the pools. */
#include "gate.h"
#include "memory.h"

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
