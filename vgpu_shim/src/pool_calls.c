/* Calls that tell of pools, and calls after which pools may be smaller. See pool.c. */
#include "memory.h"

/* Pools by place and kind of memory, since 13.0: of the host, they are not charged. */
static CUresult note(CUresult result, const CUmempool *pool, const CUmemLocation *where)
{
    if (!result && pool && where && !mica_slice_check())
        mica_pool_noted(*pool, mica_gpu_of_location(where));
    return result;
}

CUresult cuMemGetDefaultMemPool(CUmempool *pool, CUmemLocation *where, int kind)
{
    return note(MICA_REAL(cuMemGetDefaultMemPool, pool, where, kind), pool, where);
}

CUresult cuMemGetMemPool(CUmempool *pool, CUmemLocation *where, int kind)
{
    return note(MICA_REAL(cuMemGetMemPool, pool, where, kind), pool, where);
}

/* The host waited: what was freed is out of the pools. */
static CUresult waited(CUresult result, bool for_everything)
{
    mica_pools_waited(for_everything);
    return result;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    return waited(MICA_REAL(cuStreamSynchronize, stream), false);
}

CUresult cuStreamSynchronize_ptsz(CUstream stream)
{
    return waited(MICA_REAL(cuStreamSynchronize_ptsz, stream), false);
}

CUresult cuEventSynchronize(CUevent event)
{
    return waited(MICA_REAL(cuEventSynchronize, event), false);
}

CUresult cuCtxSynchronize(void)
{
    return waited(MICA_REAL(cuCtxSynchronize), true);
}

CUresult cuCtxSynchronize_v2(CUcontext context)
{
    return waited(MICA_REAL(cuCtxSynchronize_v2, context), true);
}
