/* Graphs: nodes and what comes before what. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum { GRAPH_MAGIC = 0x47525031, NODE_MAGIC = 0x4e4f4431 };
/* Types of nodes as the API numbers them; others cannot be added. */
enum { TYPE_KERNEL = 0, TYPE_COPY = 1, TYPE_FILL = 2, TYPE_HOST = 3, TYPE_CHILD = 4, TYPE_EMPTY = 5, TYPE_ALLOC = 10, TYPE_FREE = 11 };

bool sim_is_graph(CUgraph graph)
{
    return graph && graph->magic == GRAPH_MAGIC;
}

bool sim_is_node(CUgraphNode node)
{
    return node && node->magic == NODE_MAGIC;
}

CUgraph sim_graph_new(void)
{
    CUgraph graph = calloc(1, sizeof *graph);
    if (graph)
        graph->magic = GRAPH_MAGIC;
    return graph;
}

CUresult cuGraphCreate(CUgraph *graph, unsigned flags)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!graph || flags)
        return MICA_CUDA_INVALID_VALUE;
    *graph = sim_graph_new();
    return *graph ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!sim_is_graph(graph))
        return MICA_CUDA_INVALID_VALUE;
    for (size_t n = 0; n < graph->count; n++) {
        if (graph->nodes[n]->task.kind == SIM_TASK_CHILD)
            (void)cuGraphDestroy(graph->nodes[n]->task.child);
        graph->nodes[n]->magic = 0;
        free(graph->nodes[n]->after);
        free(graph->nodes[n]);
    }
    free(graph->nodes);
    graph->magic = 0;
    free(graph);
    return MICA_CUDA_SUCCESS;
}

static bool depend(struct mica_node *node, CUgraphNode before)
{
    for (size_t i = 0; i < node->after_count; i++)
        if (node->after[i] == before)
            return true;
    struct mica_node **grown = realloc(node->after, (node->after_count + 1) * sizeof *grown);
    if (!grown)
        return false;
    node->after = grown;
    node->after[node->after_count++] = before;
    return true;
}

CUresult sim_graph_add(CUgraph graph, CUgraphNode *out, const CUgraphNode *after, size_t count, const struct sim_task *task)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!sim_is_graph(graph) || (count && !after))
        return MICA_CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!sim_is_node(after[i]) || after[i]->graph != graph)
            return MICA_CUDA_INVALID_VALUE;
    if (graph->count == graph->room) {
        size_t room = graph->room ? graph->room * 2 : 16;
        struct mica_node **grown = realloc(graph->nodes, room * sizeof *grown);
        if (!grown)
            return MICA_CUDA_OUT_OF_MEMORY;
        graph->nodes = grown;
        graph->room = room;
    }
    struct mica_node *node = calloc(1, sizeof *node);
    if (!node)
        return MICA_CUDA_OUT_OF_MEMORY;
    *node = (struct mica_node){.magic = NODE_MAGIC, .graph = graph, .task = *task, .place = graph->count};
    for (size_t i = 0; i < count; i++)
        if (!depend(node, after[i])) {
            free(node->after);
            free(node);
            return MICA_CUDA_OUT_OF_MEMORY;
        }
    graph->nodes[graph->count++] = node;
    if (out)
        *out = node;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph *clone, CUgraph graph)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!clone || !sim_is_graph(graph))
        return MICA_CUDA_INVALID_VALUE;
    CUgraph made = sim_graph_new();
    result = made ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
    for (size_t n = 0; !result && n < graph->count; n++) {
        struct sim_task task = graph->nodes[n]->task;
        if (task.kind == SIM_TASK_CHILD)
            result = cuGraphClone(&task.child, graph->nodes[n]->task.child);
        if (!result)
            result = sim_graph_add(made, NULL, NULL, 0, &task);
    }
    for (size_t n = 0; !result && n < graph->count; n++)
        for (size_t i = 0; !result && i < graph->nodes[n]->after_count; i++)
            if (!depend(made->nodes[n], made->nodes[graph->nodes[n]->after[i]->place]))
                result = MICA_CUDA_OUT_OF_MEMORY;
    if (result && made)
        (void)cuGraphDestroy(made);
    else
        *clone = made;
    return result;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
    if (!sim_is_graph(graph) || !count)
        return MICA_CUDA_INVALID_VALUE;
    size_t room = *count;
    for (size_t n = 0; nodes && n < room; n++)
        nodes[n] = n < graph->count ? graph->nodes[n] : NULL;
    if (!nodes || room > graph->count)
        *count = graph->count;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode node, int *type)
{
    static const int types[] = {[SIM_TASK_EMPTY] = TYPE_EMPTY, [SIM_TASK_KERNEL] = TYPE_KERNEL, [SIM_TASK_COPY] = TYPE_COPY, [SIM_TASK_FILL] = TYPE_FILL,
                                [SIM_TASK_HOST] = TYPE_HOST, [SIM_TASK_ALLOC] = TYPE_ALLOC, [SIM_TASK_FREE] = TYPE_FREE, [SIM_TASK_CHILD] = TYPE_CHILD};
    if (!sim_is_node(node) || !type)
        return MICA_CUDA_INVALID_VALUE;
    *type = types[node->task.kind];
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
    if (!sim_is_graph(graph) || (count && (!from || !to)))
        return MICA_CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!sim_is_node(from[i]) || !sim_is_node(to[i]) || from[i]->graph != graph || to[i]->graph != graph || from[i] == to[i])
            return MICA_CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!depend(to[i], from[i]))
            return MICA_CUDA_OUT_OF_MEMORY;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const void *edges, size_t count)
{
    (void)edges; /* ports of programmatic launches: the order is what counts here */
    return cuGraphAddDependencies(graph, from, to, count);
}

CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUkernelNodeParams *params)
{
    struct sim_task task;
    CUresult result = params ? sim_kernel_task(params, &task) : MICA_CUDA_INVALID_VALUE;
    return result ? result : sim_graph_add(graph, node, after, count, &task);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUkernelNodeParams *params)
{
    return cuGraphAddKernelNode(node, graph, after, count, params);
}

CUresult cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count)
{
    return sim_graph_add(graph, node, after, count, &(struct sim_task){.kind = SIM_TASK_EMPTY});
}

CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUhostNodeParams *params)
{
    if (!params || !params->run)
        return MICA_CUDA_INVALID_VALUE;
    return sim_graph_add(graph, node, after, count, &(struct sim_task){.kind = SIM_TASK_HOST, .run = params->run, .user = params->user});
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUgraph child)
{
    struct sim_task task = {.kind = SIM_TASK_CHILD};
    CUresult result = child == graph ? MICA_CUDA_INVALID_VALUE : cuGraphClone(&task.child, child);
    return result ? result : sim_graph_add(graph, node, after, count, &task);
}

CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUmemsetNodeParams *params, CUcontext context)
{
    (void)context;
    if (!params)
        return MICA_CUDA_INVALID_VALUE;
    uint64_t bytes = params->width * params->element * (params->height ? params->height : 1);
    uint64_t ns = sim.config.fill_gbps ? bytes / sim.config.fill_gbps : 0;
    return sim_graph_add(graph, node, after, count, &(struct sim_task){.kind = SIM_TASK_FILL, .ns = ns});
}

CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUallocNodeParams *params)
{
    struct sim_device *device;
    if (!params || !params->bytes || params->pool.location.type != MICA_LOCATION_DEVICE || sim_device(params->pool.location.id, &device))
        return MICA_CUDA_INVALID_VALUE;
    params->pointer = sim_graph_pointer(params->bytes);
    const struct sim_task task = {
        .kind = SIM_TASK_ALLOC, .bytes = sim_round(params->bytes), .pointer = params->pointer, .device = params->pool.location.id};
    return sim_graph_add(graph, node, after, count, &task);
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode node, CUallocNodeParams *params)
{
    if (!params || !sim_is_node(node) || node->task.kind != SIM_TASK_ALLOC)
        return MICA_CUDA_INVALID_VALUE;
    *params = (CUallocNodeParams){.bytes = node->task.bytes, .pointer = node->task.pointer};
    params->pool.type = 1;
    params->pool.location = (CUmemLocation){.type = MICA_LOCATION_DEVICE, .id = node->task.device};
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph)
{
    if (!graph || !sim_is_node(node) || node->task.kind != SIM_TASK_CHILD)
        return MICA_CUDA_INVALID_VALUE;
    *graph = node->task.child;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUdeviceptr pointer)
{
    return sim_graph_add(graph, node, after, count, &(struct sim_task){.kind = SIM_TASK_FREE, .pointer = pointer});
}

CUresult cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUgraphNodeParams *params)
{
    if (!params)
        return MICA_CUDA_INVALID_VALUE;
    switch (params->type) {
    case TYPE_KERNEL:
        return cuGraphAddKernelNode(node, graph, after, count, &params->as.kernel);
    case TYPE_HOST:
        return cuGraphAddHostNode(node, graph, after, count, &params->as.host);
    case TYPE_CHILD:
        return cuGraphAddChildGraphNode(node, graph, after, count, params->as.child.graph);
    case TYPE_EMPTY:
        return cuGraphAddEmptyNode(node, graph, after, count);
    case TYPE_ALLOC:
        return cuGraphAddMemAllocNode(node, graph, after, count, &params->as.alloc);
    case TYPE_FREE:
        return cuGraphAddMemFreeNode(node, graph, after, count, params->as.free.pointer);
    default:
        return MICA_CUDA_NOT_SUPPORTED;
    }
}

CUresult cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, const void *edges, size_t count, CUgraphNodeParams *params)
{
    (void)edges;
    return cuGraphAddNode(node, graph, after, count, params);
}
