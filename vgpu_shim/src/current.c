/* See current.h. The calls that change a thread's context. */
#include "current.h"

_Atomic uint64_t mica_current_meters[MICA_THREADS];
static _Atomic int hidden; /* contexts may change in ways that we do not see */

/* A thread that has the address of one that ended finds that one's word: it has no context, and the driver refuses what it launches, until it
 * makes one current, which is seen. */
static void keep(const struct mica_meter *meter)
{
    const uint64_t thread = mica_current_thread(), self = thread << 16;
    if (thread % 64 || thread >> 48 || atomic_load_explicit(&hidden, memory_order_relaxed))
        return;
    atomic_store(mica_current_place(self), self | (uint64_t)(meter - mica_meters + 1));
    if (atomic_load(&hidden)) /* looked at after the word is there: whoever sets it wipes the words after that */
        mica_current_changed();
}

#ifdef __clang__
__attribute__((preserve_most))
#endif
uint64_t mica_current_ask(void)
{
    int gpu;
    if (atomic_load_explicit(&mica_slice_state, memory_order_acquire) != 1)
        return MICA_METERS;
    const struct mica_meter *meter = mica_meter_current(&gpu);
    if (!meter || gpu < 0)
        return MICA_METERS;
    keep(meter);
    return (uint64_t)(meter - mica_meters);
}

void mica_current_changed(void)
{
    atomic_store_explicit(mica_current_place(mica_current_thread() << 16), 0, memory_order_relaxed);
}

void mica_current_forget(void)
{
    for (int i = 0; i < MICA_THREADS; i++)
        atomic_store(&mica_current_meters[i], 0);
}

#define CHANGES(real) \
    do { \
        CUresult result = (real); \
        mica_current_changed(); \
        return result; \
    } while (0)

CUresult cuCtxSetCurrent(CUcontext context)
{
    CHANGES(MICA_REAL(cuCtxSetCurrent, context));
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CHANGES(MICA_REAL(cuCtxPushCurrent_v2, context));
}

CUresult cuCtxPushCurrent(CUcontext context)
{
    CHANGES(MICA_REAL(cuCtxPushCurrent, context));
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CHANGES(MICA_REAL(cuCtxPopCurrent_v2, context));
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    CHANGES(MICA_REAL(cuCtxPopCurrent, context));
}

/* Contexts for graphics. Their overhead is measured at the next allocation or launch. */
CUresult cuGLCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    CHANGES(MICA_REAL(cuGLCtxCreate_v2, context, flags, device));
}

CUresult cuGLCtxCreate(CUcontext *context, unsigned flags, CUdevice device)
{
    CHANGES(MICA_REAL(cuGLCtxCreate, context, flags, device));
}

CUresult cuVDPAUCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device, unsigned display, void *lookup)
{
    CHANGES(MICA_REAL(cuVDPAUCtxCreate_v2, context, flags, device, display, lookup));
}

CUresult cuVDPAUCtxCreate(CUcontext *context, unsigned flags, CUdevice device, unsigned display, void *lookup)
{
    CHANGES(MICA_REAL(cuVDPAUCtxCreate, context, flags, device, display, lookup));
}

CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    atomic_store(&hidden, 1);
    mica_current_forget();
    return MICA_REAL(cuGetExportTable, table, id);
}
