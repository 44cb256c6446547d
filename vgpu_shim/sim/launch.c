/* Modules with kernels that are busy for as long as their arguments and the seed say, and the ways to launch them. */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

enum { MODULE_MAGIC = 0x4d4f4431, FUNCTION_MAGIC = 0x46554e31, KERNELS = 3 };
enum { SPIN, SPIN_US, BIMODAL };
static const struct { const char *name; int arguments; } kernels[KERNELS] = {[SPIN] = {"spin", 1}, [SPIN_US] = {"spin_us", 1}, [BIMODAL] = {"bimodal", 3}};

struct mica_function {
    unsigned magic;
    int kernel;
    struct mica_module *module;
};

struct mica_module {
    unsigned magic;
    struct sim_device *device;
    uint64_t overhead;
    struct mica_function functions[KERNELS];
};

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (!result)
        result = sim_unsafe_call();
    if (result)
        return result;
    if (!module || !image)
        return MICA_CUDA_INVALID_VALUE;
    struct mica_module *made = calloc(1, sizeof *made);
    if (!made)
        return MICA_CUDA_OUT_OF_MEMORY;
    *made = (struct mica_module){.magic = MODULE_MAGIC, .device = sim_device_of(ctx), .overhead = sim.config.memory.module};
    for (int k = 0; k < KERNELS; k++)
        made->functions[k] = (struct mica_function){FUNCTION_MAGIC, k, made};
    result = sim_take_overhead(made->device, made->overhead);
    if (result)
        free(made);
    else
        *module = made;
    return result;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options, void **values)
{
    (void)count, (void)options, (void)values; /* options of a compiler that is not there */
    return cuModuleLoadData(module, image);
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image)
{
    return cuModuleLoadData(module, image);
}

CUresult cuModuleLoad(CUmodule *module, const char *path)
{
    return cuModuleLoadData(module, path); /* any image will do, so none is read */
}

CUresult cuModuleUnload(CUmodule module)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!module || module->magic != MODULE_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    module->magic = 0;
    if (module->device->contexts)
        sim_give_overhead(module->device, module->overhead);
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
    for (int k = 0; k < KERNELS; k++)
        if (strcmp(name, kernels[k].name) == 0) {
            *function = &module->functions[k];
            return MICA_CUDA_SUCCESS;
        }
    return MICA_CUDA_NOT_FOUND;
}

/* Kernel arguments come as pointers to values, or packed: {1, buffer, 2, &size, 0}. */
static bool arguments(void **params, void **extra, int count, uint64_t *out)
{
    for (int i = 0; params && i < count; i++) {
        if (!params[i])
            return false;
        memcpy(&out[i], params[i], sizeof *out);
    }
    if (params)
        return true;
    for (int i = 0; extra && extra[i] && i < 8; i += 2)
        if (extra[i] == (void *)1) {
            memcpy(out, extra[i + 1], (size_t)count * sizeof *out);
            return true;
        }
    return false;
}

CUresult sim_kernel_task(const CUkernelNodeParams *params, struct sim_task *task)
{
    const struct mica_function *function = params->function;
    if (!function || function->magic != FUNCTION_MAGIC)
        return MICA_CUDA_INVALID_HANDLE;
    *task = (struct sim_task){.kind = SIM_TASK_KERNEL, .function = function};
    uint64_t threads = (uint64_t)params->block_x * params->block_y * params->block_z;
    bool shape = params->grid_x && params->grid_y && params->grid_z && threads && threads <= 1024;
    if (!shape || !arguments(params->params, params->extra, kernels[function->kernel].arguments, task->arguments))
        return MICA_CUDA_INVALID_VALUE;
    if (function->kernel == SPIN_US && task->arguments[0] > UINT64_MAX / 1000)
        return MICA_CUDA_INVALID_VALUE;
    return MICA_CUDA_SUCCESS;
}

uint64_t sim_kernel_ns(const struct sim_task *task)
{
    static _Atomic uint64_t launches;
    const uint64_t *a = task->arguments;
    uint64_t state = sim.config.seed ^ (uint64_t)sim.slot << 56 ^ ++launches * 2;
    uint64_t ns = a[0];
    if (task->function->kernel == SPIN_US)
        ns *= 1000;
    if (task->function->kernel == BIMODAL && sim_random(&state) % 1000 < a[2]) /* short, long, permille of long ones */
        ns = a[1];
    if (sim.config.noise && ns < UINT64_MAX / 4096) {
        int64_t permille = (int64_t)(sim_random(&state) % (2 * sim.config.noise + 1)) - (int64_t)sim.config.noise;
        ns = (uint64_t)((int64_t)ns + (int64_t)ns * permille / 1000);
    }
    return ns;
}

CUresult cuLaunchKernel(MICA_LAUNCH_ARGS, void **extra)
{
    struct mica_stream *on;
    struct sim_task task;
    const CUkernelNodeParams launch = {function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, params, extra};
    CUresult result = sim_stream(stream, &on);
    if (!result)
        result = sim_kernel_task(&launch, &task);
    return result ? result : sim_submit(on, &task);
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
    if (!config)
        return MICA_CUDA_INVALID_VALUE;
    return cuLaunchKernel_ptsz(function, config->grid_x, config->grid_y, config->grid_z, config->block_x, config->block_y, config->block_z,
                               config->shared_bytes, config->stream, params, extra);
}
