/* Calls that tell of pools. See pool.c. */
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
