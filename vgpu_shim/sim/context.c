/* Contexts of the simulated driver: one primary per device and any number of created ones, a stack per thread. */
#include "sim.h"

#include <stdlib.h>

enum { CTX_MAGIC = 0x43545831 };

__thread struct mica_ctx *sim_stack[8];
__thread int sim_depth;
static struct mica_ctx *all;

static bool valid(const struct mica_ctx *ctx)
{
    for (const struct mica_ctx *at = all; at; at = at->next)
        if (at == ctx)
            return true;
    return false;
}

CUresult sim_current(struct mica_ctx **ctx)
{
    CUresult result = sim_check();
    if (result)
        return result;
    struct mica_ctx *top = sim_depth ? sim_stack[sim_depth - 1] : NULL;
    pthread_mutex_lock(&sim.mutex);
    bool ok = top && valid(top);
    pthread_mutex_unlock(&sim.mutex);
    if (!ok)
        return MICA_CUDA_INVALID_CONTEXT;
    *ctx = top;
    return sim_config_health(sim_device_of(top)->card->uuid) == 79 ? MICA_CUDA_ECC : MICA_CUDA_SUCCESS;
}

struct sim_device *sim_device_of(const struct mica_ctx *ctx)
{
    return &sim.devices[ctx->device];
}

static int queue_for(int gpu)
{
    struct sim_queue *queues = sim.state->queues[sim.slot];
    for (int q = 0; q < SIM_QUEUES; q++)
        if (queues[q].gpu < 0) {
            queues[q].head = queues[q].tail = 0;
            queues[q].gpu = gpu;
            return q;
        }
    return -1;
}

/* Called with sim.mutex held. */
static CUresult make(CUdevice number, bool primary, struct mica_ctx **out)
{
    struct sim_device *device = &sim.devices[number];
    if (sim_config_health(device->card->uuid) == 79)
        return MICA_CUDA_UNAVAILABLE;
    if (device->contexts == 0) {
        CUresult result = sim_take_overhead(device, sim.config.memory.context);
        if (result)
            return result;
    }
    struct mica_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx)
        return MICA_CUDA_OUT_OF_MEMORY;
    if (device->default_queue < 0)
        device->default_queue = queue_for(device->gpu);
    *ctx = (struct mica_ctx){.magic = CTX_MAGIC, .device = number, .primary = primary, .next = all};
    device->contexts++;
    all = *out = ctx;
    return MICA_CUDA_SUCCESS;
}

static void destroy(struct mica_ctx *ctx)
{
    struct sim_device *device = sim_device_of(ctx);
    sim_drain(device);
    sim_streams_drop(ctx);
    sim_memory_drop(ctx);
    pthread_mutex_lock(&sim.mutex);
    for (struct mica_ctx **at = &all; *at; at = &(*at)->next)
        if (*at == ctx) {
            *at = ctx->next;
            break;
        }
    if (--device->contexts == 0) /* modules go with it */
        sim_give_overhead(device, sim.state->slots[sim.slot].overhead[device->gpu]);
    pthread_mutex_unlock(&sim.mutex);
    free(ctx);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice number)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (!context)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    if (!device->primary)
        result = make(number, true, &device->primary);
    if (!result) {
        device->retained++;
        *context = device->primary;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

static CUresult give_up_primary(CUdevice number, bool reset)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    struct mica_ctx *gone = NULL;
    if (!reset && !device->retained)
        result = MICA_CUDA_INVALID_CONTEXT;
    else if (reset || --device->retained == 0) {
        gone = device->primary;
        device->primary = NULL;
    }
    pthread_mutex_unlock(&sim.mutex);
    if (gone)
        destroy(gone);
    if (reset && gone && device->retained) { /* the handle is new, holders retain it again */
        pthread_mutex_lock(&sim.mutex);
        device->retained = 0;
        pthread_mutex_unlock(&sim.mutex);
    }
    return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    return give_up_primary(device, false);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    return give_up_primary(device, false);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    return give_up_primary(device, true);
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    return give_up_primary(device, true);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice number, unsigned flags)
{
    struct sim_device *device;
    (void)flags; /* how the host waits; the simulator always sleeps */
    return sim_device(number, &device);
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice number, unsigned flags)
{
    return cuDevicePrimaryCtxSetFlags_v2(number, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice number, unsigned *flags, int *active)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (!result && (!flags || !active))
        result = MICA_CUDA_INVALID_VALUE;
    if (!result) {
        *flags = 0;
        *active = device->primary != NULL;
    }
    return result;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice number)
{
    struct sim_device *device;
    (void)flags;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (!context)
        return MICA_CUDA_INVALID_VALUE;
    pthread_mutex_lock(&sim.mutex);
    result = make(number, false, context);
    pthread_mutex_unlock(&sim.mutex);
    return result ? result : cuCtxPushCurrent_v2(*context);
}

CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned flags, CUdevice device)
{
    (void)affinity, (void)count; /* shares of multiprocessors under MPS, which is not there */
    return cuCtxCreate_v2(context, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext *context, void *params, unsigned flags, CUdevice device)
{
    (void)params;
    return cuCtxCreate_v2(context, flags, device);
}

CUresult cuCtxCreate(CUcontext *context, unsigned flags, CUdevice device)
{
    return cuCtxCreate_v2(context, flags, device);
}

static CUresult checked(CUcontext context)
{
    CUresult result = sim_check();
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    bool ok = valid(context);
    pthread_mutex_unlock(&sim.mutex);
    return ok ? MICA_CUDA_SUCCESS : MICA_CUDA_INVALID_CONTEXT;
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    CUresult result = checked(context);
    if (result)
        return result;
    if (context->primary)
        return MICA_CUDA_INVALID_CONTEXT;
    if (sim_depth && sim_stack[sim_depth - 1] == context)
        sim_depth--;
    destroy(context);
    return MICA_CUDA_SUCCESS;
}

CUresult cuCtxDestroy(CUcontext context)
{
    return cuCtxDestroy_v2(context);
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    CUresult result = context ? checked(context) : sim_check();
    if (result)
        return result;
    if (sim_depth == 0)
        sim_depth = 1;
    sim_stack[sim_depth - 1] = context;
    if (!context)
        sim_depth--;
    return MICA_CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult result = sim_check();
    if (!result && !context)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *context = sim_depth ? sim_stack[sim_depth - 1] : NULL;
    return result;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult result = checked(context);
    if (result)
        return result;
    if (sim_depth >= (int)(sizeof sim_stack / sizeof sim_stack[0]))
        return MICA_CUDA_INVALID_CONTEXT;
    sim_stack[sim_depth++] = context;
    return MICA_CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context)
{
    return cuCtxPushCurrent_v2(context);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!sim_depth)
        return MICA_CUDA_INVALID_CONTEXT;
    sim_depth--;
    if (context)
        *context = sim_stack[sim_depth];
    return MICA_CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    return cuCtxPopCurrent_v2(context);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (!result && !device)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *device = ctx->device;
    return result;
}

CUresult cuCtxSynchronize(void)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (!result && sim_capture_break_all(ctx)) { /* in every mode */
        result = MICA_CUDA_CAPTURE_UNSUPPORTED;
    }
    if (result)
        return result;
    sim_clock_spend(sim.config.call_ns);
    return sim_drain(sim_device_of(ctx));
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version)
{
    CUresult result = context ? checked(context) : sim_check();
    if (!result && !version)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *version = 3020;
    return result;
}
