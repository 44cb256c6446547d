/* Modules with two kernels that are busy for as long as their argument says, and the ways to launch them. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum { MODULE_MAGIC = 0x4d4f4431, FUNCTION_MAGIC = 0x46554e31 };

struct mica_function {
    unsigned magic;
    uint64_t unit_ns;
};

struct mica_module {
    unsigned magic;
    struct mica_function spin, spin_us;
};

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!module || !image)
        return MICA_CUDA_INVALID_VALUE;
    if (!(*module = calloc(1, sizeof **module)))
        return MICA_CUDA_OUT_OF_MEMORY;
    **module = (struct mica_module){.magic = MODULE_MAGIC, .spin = {FUNCTION_MAGIC, 1}, .spin_us = {FUNCTION_MAGIC, 1000}};
    return MICA_CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options, void **values)
{
    (void)count, (void)options, (void)values; /* options of a compiler that is not there */
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!module || module->magic != MODULE_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    module->magic = 0;
    free(module);
    return MICA_CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!function || !name || !module || module->magic != MODULE_MAGIC)
        return MICA_CUDA_INVALID_VALUE;
    if (strcmp(name, "spin") == 0)
        *function = &module->spin;
    else if (strcmp(name, "spin_us") == 0)
        *function = &module->spin_us;
    else
        return MICA_CUDA_NOT_FOUND;
    return MICA_CUDA_SUCCESS;
}

/* Kernel arguments come as pointers to values, or packed: {1, buffer, 2, &size, 0}. */
static bool argument(void **params, void **extra, uint64_t *out)
{
    if (params && params[0]) {
        memcpy(out, params[0], sizeof *out);
        return true;
    }
    for (int i = 0; extra && extra[i] && i < 8; i += 2)
        if (extra[i] == (void *)1) {
            memcpy(out, extra[i + 1], sizeof *out);
            return true;
        }
    return false;
}

static CUresult launch(CUfunction function, CUstream handle, bool shape, void **params, void **extra)
{
    struct mica_stream *stream;
    uint64_t value, ns;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    if (!function || function->magic != FUNCTION_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    if (!shape || !argument(params, extra, &value) || __builtin_mul_overflow(value, function->unit_ns, &ns))
        return MICA_CUDA_INVALID_VALUE;
    sim_push(stream, (struct sim_op){.kind = SIM_OP_KERNEL, .value = ns}, NULL);
    return MICA_CUDA_SUCCESS;
}

CUresult cuLaunchKernel(MICA_LAUNCH_ARGS, void **extra)
{
    (void)shared_bytes;
    bool shape = grid_x && grid_y && grid_z && block_x && block_y && block_z && (uint64_t)block_x * block_y * block_z <= 1024;
    return launch(function, stream, shape, params, extra);
}

CUresult cuLaunchKernel_ptsz(MICA_LAUNCH_ARGS, void **extra)
{
    return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                          stream ? stream : MICA_STREAM_PER_THREAD, params, extra);
}

CUresult cuLaunchCooperativeKernel(MICA_LAUNCH_ARGS)
{
    return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params, NULL);
}

CUresult cuLaunchCooperativeKernel_ptsz(MICA_LAUNCH_ARGS)
{
    return cuLaunchKernel_ptsz(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params, NULL);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
    if (!config)
        return MICA_CUDA_INVALID_VALUE;
    return cuLaunchKernel(function, config->grid_x, config->grid_y, config->grid_z, config->block_x, config->block_y, config->block_z,
                          config->shared_bytes, config->stream, params, extra);
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
    return cuLaunchKernelEx(config, function, params, extra);
}
