/* The launch hooks: gate, the same variant of the real call, settle. */
#include "gate.h"
#include "graph_memory.h"

static inline uint64_t shape(const void *what, uint64_t grid, uint64_t block)
{
    return (uint64_t)(uintptr_t)what ^ grid * UINT64_C(0x9e3779b97f4a7c15) ^ block << 44;
}

/* Grid and block as numbers that differ when the shapes do; products in 64 bits. */
#define GRID ((uint64_t)grid_x * grid_y * grid_z)
#define BLOCK ((uint64_t)block_x * block_y * block_z)

#define WHERE(on, per_thread) ((per_thread) && !(on) ? MICA_STREAM_PER_THREAD : (on))
/* A hook in two functions, so that the usual ways through the first one are short: nobody has to be asked; a batch is under way and can be joined.
 * still: what says about arguments that the caller left on the stack that they stay there; quick: the real call where the driver is loaded and has it. */
#define LAUNCH(name, parameters, arguments, key, on, per_thread, still, present, quick, real) \
    static __attribute__((noinline)) CUresult name##_asking parameters \
    { \
        struct mica_launch launch; \
        struct mica_batch *batch = mica_gate_join((key), WHERE(on, per_thread)); \
        if (batch) { \
            CUresult launched = (real); \
            mica_meter_leave(batch, launched == 0); \
            return launched; \
        } \
        CUresult result = mica_gate_begin(&launch, (key), WHERE(on, per_thread)); \
        if (MICA_UNLIKELY(result)) \
            return result; \
        result = (real); \
        mica_gate_end(&launch, result); \
        return result; \
    } \
    CUresult name parameters \
    { \
        const bool known = (present); \
        if (known && mica_gate_pass()) \
            return (quick); \
        struct mica_batch *batch = MICA_LIKELY(known) ? mica_gate_join_known((key), WHERE(on, per_thread)) : NULL; \
        still; \
        if (MICA_UNLIKELY(!batch)) \
            return name##_asking arguments; \
        CUresult result = (quick); \
        mica_meter_leave(batch, result == 0); \
        return result; \
    }
/* The same around the driver's function of that name, called with the hook's arguments. */
#define HOOK(name, parameters, arguments, key, on, per_thread, still) \
    LAUNCH(name, parameters, arguments, key, on, per_thread, still, mica_real.name != NULL, mica_real.name arguments, \
           mica_driver() && mica_real.name ? mica_real.name arguments : mica_driver_absent())
#define ALL function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params

/* Read again where they are passed on, not kept in registers and spilled meanwhile: a tenth of what joining costs. */
#define STILL __asm__("" : "+m"(block_z), "+m"(shared_bytes), "+m"(stream), "+m"(params))

#define KERNEL(name, per_thread, parameters, arguments) \
    HOOK(name, parameters, arguments, shape(function, GRID, BLOCK), stream, per_thread, STILL)
KERNEL(cuLaunchKernel, false, (MICA_LAUNCH_ARGS, void **extra), (ALL, extra))
KERNEL(cuLaunchKernel_ptsz, true, (MICA_LAUNCH_ARGS, void **extra), (ALL, extra))
KERNEL(cuLaunchCooperativeKernel, false, (MICA_LAUNCH_ARGS), (ALL))
KERNEL(cuLaunchCooperativeKernel_ptsz, true, (MICA_LAUNCH_ARGS), (ALL))

static inline uint64_t config_shape(const CUlaunchConfig *config, CUfunction function)
{
    if (!config)
        return shape(function, 0, 0);
    return shape(function, (uint64_t)config->grid_x * config->grid_y * config->grid_z,
                 (uint64_t)config->block_x * config->block_y * config->block_z);
}

#define CONFIGURED(name, per_thread) \
    HOOK(name, (const CUlaunchConfig *config, CUfunction function, void **params, void **extra), (config, function, params, extra), \
         config_shape(config, function), (config ? config->stream : NULL), per_thread, (void)0)
CONFIGURED(cuLaunchKernelEx, false)
CONFIGURED(cuLaunchKernelEx_ptsz, true)

#define FLAT ((uint64_t)(unsigned)width * (unsigned)height)
HOOK(cuLaunch, (CUfunction function), (function), shape(function, 1, 0), (CUstream)NULL, false, (void)0)
HOOK(cuLaunchGrid, (CUfunction function, int width, int height), (function, width, height), shape(function, FLAT, 0), (CUstream)NULL, false, (void)0)
HOOK(cuLaunchGridAsync, (CUfunction function, int width, int height, CUstream stream), (function, width, height, stream), shape(function, FLAT, 0),
     stream, false, (void)0)

#define GRAPH(name, per_thread) \
    LAUNCH(name, (CUgraphExec graph, CUstream stream), (graph, stream), shape(graph, 0, 1), stream, per_thread, (void)0, true, \
           mica_graph_launch(graph, stream, per_thread), mica_graph_launch(graph, stream, per_thread))
GRAPH(cuGraphLaunch, false)
GRAPH(cuGraphLaunch_ptsz, true)

/* One call for several GPUs, deprecated and gone from newer drivers: each part would have to wait for its own budget. */
CUresult cuLaunchCooperativeKernelMultiDevice(CUmultiLaunch *list, unsigned count, unsigned flags)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    if (!atomic_load(&mica_slice.enforce))
        return MICA_REAL(cuLaunchCooperativeKernelMultiDevice, list, count, flags);
    MICA_LOG_ONCE("cuLaunchCooperativeKernelMultiDevice cannot be limited and is refused; launch on each GPU with cuLaunchCooperativeKernel");
    return MICA_CUDA_NOT_SUPPORTED;
}

/* Counted before a capture begins and after it ended. A call that does not end the capture (wrong thread) does not end the count either. */
#define BEGIN_CAPTURE(stream, real) \
    do { \
        mica_gate_capture_begins(); \
        CUresult result = (real); \
        mica_gate_capture_began((stream), result == 0); \
        return result; \
    } while (0)
#define END_CAPTURE(stream, real) \
    do { \
        CUresult result = (real); \
        if (!mica_gate_capturing(stream)) \
            (void)mica_gate_capture_end(stream); \
        return result; \
    } while (0)
#define PER_THREAD(stream) ((stream) ? (stream) : MICA_STREAM_PER_THREAD)

CUresult cuStreamBeginCapture(CUstream stream)
{
    BEGIN_CAPTURE(stream, MICA_REAL(cuStreamBeginCapture, stream));
}

CUresult cuStreamBeginCapture_ptsz(CUstream stream)
{
    BEGIN_CAPTURE(PER_THREAD(stream), MICA_REAL(cuStreamBeginCapture_ptsz, stream));
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    BEGIN_CAPTURE(stream, MICA_REAL(cuStreamBeginCapture_v2, stream, mode));
}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, int mode)
{
    BEGIN_CAPTURE(PER_THREAD(stream), MICA_REAL(cuStreamBeginCapture_v2_ptsz, stream, mode));
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    BEGIN_CAPTURE(stream, MICA_REAL(cuStreamBeginCaptureToGraph, stream, graph, nodes, edges, count, mode));
}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    BEGIN_CAPTURE(PER_THREAD(stream), MICA_REAL(cuStreamBeginCaptureToGraph_ptsz, stream, graph, nodes, edges, count, mode));
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    END_CAPTURE(stream, MICA_REAL(cuStreamEndCapture, stream, graph));
}

CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph)
{
    END_CAPTURE(PER_THREAD(stream), MICA_REAL(cuStreamEndCapture_ptsz, stream, graph));
}
