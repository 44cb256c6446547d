/* When a context goes, so does what was allocated in it. */
#include "gate.h"
#include "memory.h"
#include "overhead.h"

/* Nobody of ours is in the context meanwhile; its meter, with what it measures with, goes with it. What is charged to the context is marked before
 * the driver destroys it: afterwards its handle may be another context's already. */
#define DESTROY(context, real, gone) \
    do { \
        CUcontext going = (context); \
        mica_gate_rest(going); \
        const void *mark = going ? mica_memory_mark(going) : NULL; \
        mica_activity_begin(); \
        CUresult result = (real); \
        bool ended = !result && (gone); \
        mica_gate_resume(going, ended); \
        mica_current_forget(); /* also when it fails: a context that was current may not be so any more */ \
        if (going) \
            mica_memory_settle(mark, going, ended); \
        mica_activity_end(); \
        if (ended && going && atomic_load(&mica_slice_state) == 1) \
            mica_overhead_refresh(); \
        return result; \
    } while (0)

CUresult cuCtxDestroy_v2(CUcontext context)
{
    DESTROY(context, MICA_REAL(cuCtxDestroy_v2, context), true);
}

CUresult cuCtxDestroy(CUcontext context)
{
    DESTROY(context, MICA_REAL(cuCtxDestroy, context), true);
}

/* Only the last of several attachments destroys; the driver then no longer knows the context. */
CUresult cuCtxDetach(CUcontext context)
{
    unsigned version;
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

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxRelease_v2, device), !active(device));
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxRelease, device), !active(device));
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxReset_v2, device), true);
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    DESTROY(primary(device), MICA_REAL(cuDevicePrimaryCtxReset, device), true);
}
