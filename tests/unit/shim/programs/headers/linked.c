/* A driver-API program, written against CUDA's own headers and linked to the driver: two allocations of the second argument's MiB by each
 * family. Prints the errors: 0 under the cap, 2 beyond it. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

static CUdeviceptr at;
static size_t bytes;

static CUresult linear(void) { return cuMemAlloc(&at, bytes); }
static CUresult managed(void) { return cuMemAllocManaged(&at, bytes, CU_MEM_ATTACH_GLOBAL); }
static CUresult pitched(void) { size_t pitch; return cuMemAllocPitch(&at, &pitch, 1 << 20, bytes >> 20, 4); }
static CUresult stream_ordered(void) { return cuMemAllocAsync(&at, bytes, CU_STREAM_PER_THREAD); }

static CUresult virtual(void)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    CUmemGenericAllocationHandle handle;
    return cuMemCreate(&handle, bytes, &prop, 0);
}

static CUresult array(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {.Width = 1 << 16, .Height = bytes >> 18, .Format = CU_AD_FORMAT_UNSIGNED_INT32, .NumChannels = 1};
    CUarray made;
    return cuArray3DCreate(&made, &desc);
}

static CUresult graph(void)
{
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    params.alloc.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params.alloc.poolProps.location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0};
    params.alloc.bytesize = bytes;
    CUresult result = cuGraphCreate(&graph, 0);
    if (!result)
        result = cuGraphAddNode(&node, graph, NULL, NULL, 0, &params);
    if (!result)
        result = cuGraphInstantiateWithFlags(&exec, graph, 0);
    return result ? result : cuGraphLaunch(exec, NULL);
}

static const struct { const char *name; CUresult (*take)(void); } families[] = {
    {"linear", linear}, {"managed", managed}, {"pitched", pitched}, {"stream_ordered", stream_ordered}, {"virtual", virtual}, {"array", array},
    {"graph", graph},
};

int main(int argc, char **argv)
{
    CUcontext context;
    size_t free_bytes, total;
    (void)argc;
    bytes = strtoull(argv[2], NULL, 10) << 20;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context))
        return 1;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (__builtin_strcmp(argv[1], families[i].name))
            continue;
        int first = families[i].take(), second = families[i].take();
        if (cuMemGetInfo(&free_bytes, &total))
            return 1;
        printf("%d %d %zu %zu\n", first, second, total >> 20, free_bytes >> 20);
    }
    return 0;
}
