/* When a context goes, so does what was allocated in it. */
#include "gate.h"
#include "memory.h"

static CUresult destroyed(CUcontext context, CUresult result)
{
    if (!result && context) {
        mica_memory_forget(context);
        mica_gate_forget(context);
    }
    return result;
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    return destroyed(context, MICA_REAL(cuCtxDestroy_v2, context));
}

CUresult cuCtxDestroy(CUcontext context)
{
    return destroyed(context, MICA_REAL(cuCtxDestroy, context));
}

static bool active(CUdevice device)
{
    unsigned flags;
    int is_active = 0;
    return mica_driver() && mica_real.cuDevicePrimaryCtxGetState && !mica_real.cuDevicePrimaryCtxGetState(device, &flags, &is_active) && is_active;
}

/* The handle of an active primary context. It is held by somebody, so retaining and releasing it changes nothing. */
static CUcontext primary(CUdevice device)
{
    CUcontext context = NULL;
    if (!active(device) || !mica_real.cuDevicePrimaryCtxRetain || !mica_real.cuDevicePrimaryCtxRelease_v2
        || mica_real.cuDevicePrimaryCtxRetain(&context, device))
        return NULL;
    (void)mica_real.cuDevicePrimaryCtxRelease_v2(device);
    return context;
}

static CUresult given_up(CUdevice device, CUcontext before, CUresult result)
{
    if (!result && before && !active(device))
        return destroyed(before, result);
    return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUcontext before = primary(device);
    return given_up(device, before, MICA_REAL(cuDevicePrimaryCtxRelease_v2, device));
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    CUcontext before = primary(device);
    return given_up(device, before, MICA_REAL(cuDevicePrimaryCtxRelease, device));
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    CUcontext before = primary(device);
    return destroyed(before, MICA_REAL(cuDevicePrimaryCtxReset_v2, device));
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    CUcontext before = primary(device);
    return destroyed(before, MICA_REAL(cuDevicePrimaryCtxReset, device));
}
