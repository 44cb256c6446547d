/* The launch hooks: gate, the same variant of the real call, settle. */
#include "gate.h"
#include "graph_memory.h"

static uint64_t shape(const void *what, uint64_t grid, uint64_t block)
{
    return (uint64_t)(uintptr_t)what ^ grid * UINT64_C(0x9e3779b97f4a7c15) ^ block << 44;
}

/* Grid and block as numbers that differ when the shapes do; products in 64 bits. */
#define GRID ((uint64_t)grid_x * grid_y * grid_z)
#define BLOCK ((uint64_t)block_x * block_y * block_z)

#define LAUNCH(key, on, per_thread, real) \
    do { \
        if (mica_gate_pass()) \
            return (real); \
        CUstream where = (per_thread) && !(on) ? MICA_STREAM_PER_THREAD : (on); \
        struct mica_batch *batch = mica_gate_join((key), where); \
        if (MICA_LIKELY(batch)) { \
            CUresult launched = (real); \
            mica_meter_leave(batch, launched == 0); \
            return launched; \
        } \
        struct mica_launch launch; \
        CUresult result = mica_gate_begin(&launch, (key), where); \
        if (MICA_UNLIKELY(result)) \
            return result; \
        result = (real); \
        mica_gate_end(&launch, result); \
        return result; \
    } while (0)
#define ALL function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params

CUresult cuLaunchKernel(MICA_LAUNCH_ARGS, void **extra)
{
    LAUNCH(shape(function, GRID, BLOCK), stream, false, MICA_REAL(cuLaunchKernel, ALL, extra));
}

CUresult cuLaunchKernel_ptsz(MICA_LAUNCH_ARGS, void **extra)
{
    LAUNCH(shape(function, GRID, BLOCK), stream, true, MICA_REAL(cuLaunchKernel_ptsz, ALL, extra));
}

CUresult cuLaunchCooperativeKernel(MICA_LAUNCH_ARGS)
{
    LAUNCH(shape(function, GRID, BLOCK), stream, false, MICA_REAL(cuLaunchCooperativeKernel, ALL));
}

CUresult cuLaunchCooperativeKernel_ptsz(MICA_LAUNCH_ARGS)
{
    LAUNCH(shape(function, GRID, BLOCK), stream, true, MICA_REAL(cuLaunchCooperativeKernel_ptsz, ALL));
}

static uint64_t config_shape(const CUlaunchConfig *config, CUfunction function)
{
    if (!config)
        return shape(function, 0, 0);
    return shape(function, (uint64_t)config->grid_x * config->grid_y * config->grid_z,
                 (uint64_t)config->block_x * config->block_y * config->block_z);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
    LAUNCH(config_shape(config, function), config ? config->stream : NULL, false, MICA_REAL(cuLaunchKernelEx, config, function, params, extra));
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
    LAUNCH(config_shape(config, function), config ? config->stream : NULL, true,
           MICA_REAL(cuLaunchKernelEx_ptsz, config, function, params, extra));
}

CUresult cuLaunch(CUfunction function)
{
    LAUNCH(shape(function, 1, 0), NULL, false, MICA_REAL(cuLaunch, function));
}

CUresult cuLaunchGrid(CUfunction function, int width, int height)
{
    LAUNCH(shape(function, (uint64_t)(unsigned)width * (unsigned)height, 0), NULL, false, MICA_REAL(cuLaunchGrid, function, width, height));
}

CUresult cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream)
{
    LAUNCH(shape(function, (uint64_t)(unsigned)width * (unsigned)height, 0), stream, false,
           MICA_REAL(cuLaunchGridAsync, function, width, height, stream));
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream)
{
    LAUNCH(shape(graph, 0, 1), stream, false, mica_graph_launch(graph, stream, false));
}

CUresult cuGraphLaunch_ptsz(CUgraphExec graph, CUstream stream)
{
    LAUNCH(shape(graph, 0, 1), stream, true, mica_graph_launch(graph, stream, true));
}

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
#define BEGIN_CAPTURE(real) \
    do { \
        mica_gate_capture(1); \
        CUresult result = (real); \
        if (result) \
            mica_gate_capture(-1); \
        return result; \
    } while (0)
#define END_CAPTURE(stream, real) \
    do { \
        bool captured = mica_gate_capturing(stream); \
        CUresult result = (real); \
        if (captured && !mica_gate_capturing(stream)) \
            mica_gate_capture(-1); \
        return result; \
    } while (0)

CUresult cuStreamBeginCapture(CUstream stream)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCapture, stream));
}

CUresult cuStreamBeginCapture_ptsz(CUstream stream)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCapture_ptsz, stream));
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCapture_v2, stream, mode));
}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, int mode)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCapture_v2_ptsz, stream, mode));
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCaptureToGraph, stream, graph, nodes, edges, count, mode));
}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    BEGIN_CAPTURE(MICA_REAL(cuStreamBeginCaptureToGraph_ptsz, stream, graph, nodes, edges, count, mode));
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    END_CAPTURE(stream, MICA_REAL(cuStreamEndCapture, stream, graph));
}

CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph)
{
    END_CAPTURE(stream ? stream : MICA_STREAM_PER_THREAD, MICA_REAL(cuStreamEndCapture_ptsz, stream, graph));
}
