/* A driver of a machine with seventeen cards, which is one more than a slice can have: enough of one to ask for physical memory. */
#include <string.h>

#include "cuda_min.h"

#pragma GCC visibility push(default)

enum { CARDS = 17 };

CUresult cuInit(unsigned flags)
{
    (void)flags;
    return 0;
}

CUresult cuDriverGetVersion(int *version)
{
    *version = 13000;
    return 0;
}

CUresult cuDeviceGetCount(int *count)
{
    *count = CARDS;
    return 0;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return ordinal < CARDS ? 0 : MICA_CUDA_INVALID_DEVICE;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    memset(uuid, device + 1, sizeof *uuid);
    return 0;
}

CUresult cuMemCreate(CUmemHandle *handle, size_t bytes, const CUmemProp *prop, unsigned long long flags)
{
    (void)bytes, (void)flags;
    *handle = 64;
    return prop->location.id < CARDS ? 0 : MICA_CUDA_INVALID_DEVICE;
}
