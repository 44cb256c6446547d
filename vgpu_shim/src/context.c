/* When a context goes, so does what was allocated in it. */
#include "gate.h"
#include "memory.h"
#include "overhead.h"

/* What is charged to the context is marked before the driver destroys it: afterwards its handle may be another context's already. */
#define DESTROY(context, real, gone) \
    do { \
        CUcontext going = (context); \
        const void *mark = going ? mica_memory_mark(going) : NULL; \
        CUresult result = (real); \
        mica_current_forget(); /* also when it fails: a context that was current may not be so any more */ \
        bool ended = !result && (gone); \
        if (going) \
            mica_memory_settle(mark, going, ended); \
        if (ended && going && atomic_load(&mica_slice_state) == 1) \
            mica_overhead_refresh(); \
        return result; \
    } while (0)

/* A destroyed context's meter goes first: what it measures with goes with the context. */
CUresult cuCtxDestroy_v2(CUcontext context)
{
    mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuCtxDestroy_v2, context), true);
}

CUresult cuCtxDestroy(CUcontext context)
{
    mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuCtxDestroy, context), true);
}

/* Only the last of several attachments destroys; the driver then no longer knows the context. */
CUresult cuCtxDetach(CUcontext context)
{
    unsigned version;
    mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuCtxDetach, context), mica_real.cuCtxGetApiVersion && mica_real.cuCtxGetApiVersion(context, &version));
}

static CUcontext of_green(CUgreen green)
{
    CUcontext context = NULL;
    return mica_driver() && mica_real.cuCtxFromGreenCtx && mica_real.cuCtxFromGreenCtx(&context, green) == 0 ? context : NULL;
}

CUresult cuGreenCtxDestroy(CUgreen green)
{
    CUcontext context = of_green(green);
    if (context)
        mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuGreenCtxDestroy, green), true);
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

static bool last(CUdevice device, CUcontext context)
{
    if (active(device))
        return false;
    mica_gate_forget(context);
    return true;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxRelease_v2, device), last(device, going));
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxRelease, device), last(device, going));
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    CUcontext context = primary(device);
    if (context)
        mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuDevicePrimaryCtxReset_v2, device), true);
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    CUcontext context = primary(device);
    if (context)
        mica_gate_forget(context);
    DESTROY(context, MICA_REAL(cuDevicePrimaryCtxReset, device), true);
}
