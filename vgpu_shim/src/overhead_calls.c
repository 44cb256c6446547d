/* The calls by which contexts and modules come and go. */
#include "current.h"
#include "growth.h"
#include "overhead.h"

#define CREATE(device, counted, context, real, undo) \
    do { \
        struct mica_growth growth; \
        CUresult result = mica_growth_begin_context(&growth, (device), (counted)); \
        if (result) \
            return result; \
        result = (real); \
        mica_current_changed(); \
        if (mica_growth_end(&growth, result, result ? NULL : (context))) \
            return result; \
        (void)(undo); \
        mica_current_changed(); \
        return MICA_CUDA_OUT_OF_MEMORY; \
    } while (0)

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    CREATE(device, true, *context, MICA_REAL(cuCtxCreate_v2, context, flags, device), MICA_REAL(cuCtxDestroy_v2, *context));
}

CUresult cuCtxCreate(CUcontext *context, unsigned flags, CUdevice device)
{
    CREATE(device, true, *context, MICA_REAL(cuCtxCreate, context, flags, device), MICA_REAL(cuCtxDestroy_v2, *context));
}

CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned flags, CUdevice device)
{
    CREATE(device, true, *context, MICA_REAL(cuCtxCreate_v3, context, affinity, count, flags, device), MICA_REAL(cuCtxDestroy_v2, *context));
}

CUresult cuCtxCreate_v4(CUcontext *context, void *params, unsigned flags, CUdevice device)
{
    CREATE(device, true, *context, MICA_REAL(cuCtxCreate_v4, context, params, flags, device), MICA_REAL(cuCtxDestroy_v2, *context));
}

/* Its stack, buffers and code are measured when something is allocated or launched there. */
CUresult cuGreenCtxCreate(CUgreen *green, CUresources resources, CUdevice device, unsigned flags)
{
    CUresult result = MICA_REAL(cuGreenCtxCreate, green, resources, device, flags);
    if (!result && !mica_slice_check())
        mica_overhead_refresh();
    return result;
}

static bool has_primary(CUdevice device)
{
    unsigned flags;
    int active = 0;
    return mica_driver() && mica_real.cuDevicePrimaryCtxGetState && mica_real.cuDevicePrimaryCtxGetState(device, &flags, &active) == 0 && active;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CREATE(device, !has_primary(device), *context, MICA_REAL(cuDevicePrimaryCtxRetain, context, device),
           MICA_REAL(cuDevicePrimaryCtxRelease_v2, device));
}

/* Loading code, and limits of the context that take memory (stack, heap, print buffer). */
#define LOAD(real, undo) \
    do { \
        struct mica_growth growth; \
        CUresult result = mica_slice_check(); \
        if (result) \
            return result; \
        mica_growth_begin(&growth, mica_gpu_current(), MICA_MODULE); \
        result = (real); \
        if (mica_growth_end(&growth, result, NULL)) \
            return result; \
        (void)(undo); \
        return MICA_CUDA_OUT_OF_MEMORY; \
    } while (0)

CUresult cuModuleLoad(CUmodule *module, const char *path)
{
    LOAD(MICA_REAL(cuModuleLoad, module, path), MICA_REAL(cuModuleUnload, *module));
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    LOAD(MICA_REAL(cuModuleLoadData, module, image), MICA_REAL(cuModuleUnload, *module));
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options, void **values)
{
    LOAD(MICA_REAL(cuModuleLoadDataEx, module, image, count, options, values), MICA_REAL(cuModuleUnload, *module));
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image)
{
    LOAD(MICA_REAL(cuModuleLoadFatBinary, module, image), MICA_REAL(cuModuleUnload, *module));
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, int *jit, void **jit_values, unsigned jit_count, int *options, void **values, unsigned count)
{
    LOAD(MICA_REAL(cuLibraryLoadData, library, code, jit, jit_values, jit_count, options, values, count), MICA_REAL(cuLibraryUnload, *library));
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *path, int *jit, void **jit_values, unsigned jit_count, int *options, void **values,
                               unsigned count)
{
    LOAD(MICA_REAL(cuLibraryLoadFromFile, library, path, jit, jit_values, jit_count, options, values, count), MICA_REAL(cuLibraryUnload, *library));
}

/* A limit cannot be taken back by a call that is sure to work: what it took is charged. */
CUresult cuCtxSetLimit(int limit, size_t value)
{
    CUresult result = MICA_REAL(cuCtxSetLimit, limit, value);
    if (!result && !mica_slice_check())
        mica_overhead_refresh();
    return result;
}

/* What unloading gives back always fits. */
#define UNLOAD(real) \
    do { \
        struct mica_growth growth = {.gpu = MICA_GPU_NONE}; \
        if (!mica_slice_check()) \
            mica_growth_begin(&growth, mica_gpu_current(), MICA_MODULE); \
        CUresult result = (real); \
        (void)mica_growth_end(&growth, result, NULL); \
        return result; \
    } while (0)

CUresult cuModuleUnload(CUmodule module)
{
    UNLOAD(MICA_REAL(cuModuleUnload, module));
}

CUresult cuLibraryUnload(CUlibrary library)
{
    UNLOAD(MICA_REAL(cuLibraryUnload, library));
}
