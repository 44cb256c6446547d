/* Graphs made ready and launched. One launch is one operation per stretch between host functions: it takes as long as the longest chain of kernels and
 * copies in it, as if branches did not slow each other down. */
#include "graph.h"

#include <stdlib.h>

#include "stream.h"

enum { EXEC_MAGIC = 0x47455831, AUTO_FREE = 1 };

struct mica_graph_exec {
    unsigned magic;
    CUgraph graph;      /* our own copy */
    CUgraph source;     /* to find a node by the program's handle; compared only */
    size_t *order;      /* places in the graph, each after what it depends on */
    uint64_t *finish;   /* scratch of a launch */
    uint64_t peak, unfreed;
    unsigned long long flags;
    bool outstanding; /* allocations of the last launch that no node freed */
    struct sim_device *device;
};

static bool is_exec(CUgraphExec exec)
{
    return exec && exec->magic == EXEC_MAGIC;
}

/* Order the nodes; false when they depend on each other in a circle. */
static bool sort(const struct mica_graph *graph, size_t *order)
{
    bool *done = calloc(graph->count ? graph->count : 1, sizeof *done);
    size_t placed = 0;
    for (size_t before = 1; done && placed < graph->count && before;) {
        before = 0;
        for (size_t n = 0; n < graph->count; n++) {
            bool ready = !done[n];
            for (size_t i = 0; ready && i < graph->nodes[n]->after_count; i++)
                ready = done[graph->nodes[n]->after[i]->place];
            if (!ready)
                continue;
            done[n] = true;
            order[placed++] = n;
            before++;
        }
    }
    free(done);
    return placed == graph->count;
}

static void measure(struct mica_graph_exec *exec)
{
    uint64_t used = 0;
    exec->peak = 0;
    for (size_t i = 0; i < exec->graph->count; i++) {
        const struct sim_task *task = &exec->graph->nodes[exec->order[i]]->task;
        if (task->kind == SIM_TASK_ALLOC) {
            used += task->bytes;
            exec->device = &sim.devices[task->device];
        }
        for (size_t a = 0; task->kind == SIM_TASK_FREE && a < exec->graph->count; a++) {
            const struct sim_task *alloc = &exec->graph->nodes[a]->task;
            if (alloc->kind == SIM_TASK_ALLOC && alloc->pointer == task->pointer)
                used -= alloc->bytes;
        }
        exec->peak = used > exec->peak ? used : exec->peak;
    }
    exec->unfreed = used;
}

static void drop(CUgraphExec exec)
{
    if (exec->graph)
        (void)cuGraphDestroy(exec->graph);
    free(exec->order);
    free(exec->finish);
    exec->magic = 0;
    free(exec);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    struct mica_ctx *ctx;
    CUresult result = sim_current(&ctx);
    if (result)
        return result;
    if (!out || !sim_is_graph(graph))
        return MICA_CUDA_INVALID_VALUE;
    CUgraphExec exec = calloc(1, sizeof *exec);
    if (!exec)
        return MICA_CUDA_OUT_OF_MEMORY;
    *exec = (struct mica_graph_exec){.magic = EXEC_MAGIC, .source = graph, .flags = flags, .device = sim_device_of(ctx)};
    exec->order = calloc(graph->count + 1, sizeof *exec->order);
    exec->finish = calloc(graph->count + 1, sizeof *exec->finish);
    result = exec->order && exec->finish ? cuGraphClone(&exec->graph, graph) : MICA_CUDA_OUT_OF_MEMORY;
    if (!result && !sort(exec->graph, exec->order))
        result = MICA_CUDA_INVALID_VALUE;
    if (result) {
        drop(exec);
        return result;
    }
    measure(exec);
    *out = exec;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *bad, char *log, size_t size)
{
    if (bad)
        *bad = NULL;
    if (log && size)
        *log = '\0';
    return cuGraphInstantiateWithFlags(exec, graph, 0);
}

CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *bad, char *log, size_t size)
{
    return cuGraphInstantiate_v2(exec, graph, bad, log, size);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, CUinstantiateParams *params)
{
    if (!params)
        return MICA_CUDA_INVALID_VALUE;
    CUresult result = cuGraphInstantiateWithFlags(exec, graph, params->flags);
    params->bad_node = NULL;
    params->result = result ? 1 : 0;
    return result;
}

CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec *exec, CUgraph graph, CUinstantiateParams *params)
{
    return cuGraphInstantiateWithParams(exec, graph, params);
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!is_exec(exec))
        return MICA_CUDA_INVALID_VALUE;
    drop(exec);
    return MICA_CUDA_SUCCESS;
}

/* Push one launch into the stream. */
static void run(struct mica_stream *stream, CUgraphExec exec);

static uint64_t run_child(struct mica_stream *stream, CUgraph child)
{
    CUgraphExec exec;
    if (cuGraphInstantiateWithFlags(&exec, child, 0) == 0) {
        run(stream, exec);
        drop(exec);
    }
    return 0;
}

static uint64_t push_stretch(struct mica_stream *stream, CUgraphExec exec, uint64_t longest)
{
    if (longest)
        sim_push(stream, (struct sim_op){.kind = SIM_OP_KERNEL, .value = longest}, NULL);
    for (size_t i = 0; i < exec->graph->count; i++)
        exec->finish[i] = 0;
    return 0;
}

static void run(struct mica_stream *stream, CUgraphExec exec)
{
    uint64_t longest = push_stretch(stream, exec, 0);
    for (size_t i = 0; i < exec->graph->count; i++) {
        const struct mica_node *node = exec->graph->nodes[exec->order[i]];
        const struct sim_task *task = &node->task;
        uint64_t begin = 0;
        for (size_t d = 0; d < node->after_count; d++)
            begin = exec->finish[node->after[d]->place] > begin ? exec->finish[node->after[d]->place] : begin;
        if (task->kind == SIM_TASK_KERNEL)
            begin += sim_kernel_ns(task);
        else if (task->kind == SIM_TASK_COPY || task->kind == SIM_TASK_FILL)
            begin += task->ns;
        exec->finish[node->place] = begin;
        longest = begin > longest ? begin : longest;
        if (task->kind != SIM_TASK_HOST && task->kind != SIM_TASK_CHILD)
            continue;
        longest = push_stretch(stream, exec, longest);
        if (task->kind == SIM_TASK_HOST)
            sim_host_push(stream, task->run, task->user);
        else
            (void)run_child(stream, task->child);
    }
    (void)push_stretch(stream, exec, longest);
}

/* Memory of one launch: the peak is taken from the card, and what is not freed inside stays in use. */
static CUresult take_memory(CUgraphExec exec)
{
    if (!exec->peak)
        return MICA_CUDA_SUCCESS;
    if (exec->outstanding && exec->unfreed && !(exec->flags & AUTO_FREE)) {
        for (size_t i = 0; i < exec->graph->count; i++) {
            const struct sim_task *task = &exec->graph->nodes[i]->task;
            if (task->kind == SIM_TASK_ALLOC && sim_graph_memory_covers(task->pointer, 1))
                return MICA_CUDA_INVALID_VALUE;
        }
    }
    for (size_t i = 0; exec->outstanding && i < exec->graph->count; i++)
        if (exec->graph->nodes[i]->task.kind == SIM_TASK_ALLOC)
            (void)sim_graph_memory_free(exec->graph->nodes[i]->task.pointer);
    CUresult result = sim_graph_memory_begin(exec->device, exec->peak);
    for (size_t i = 0; !result && i < exec->graph->count; i++) {
        const struct sim_task *task = &exec->graph->nodes[exec->order[i]]->task;
        if (task->kind == SIM_TASK_ALLOC)
            sim_graph_memory_live(exec->device, task->pointer, task->bytes);
        if (task->kind == SIM_TASK_FREE)
            (void)sim_graph_memory_free(task->pointer);
    }
    exec->outstanding = !result;
    return result;
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !is_exec(exec))
        result = MICA_CUDA_INVALID_VALUE;
    return result || !exec->peak ? result : sim_graph_memory_begin(exec->device, exec->peak);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream handle)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    if (!is_exec(exec))
        return MICA_CUDA_INVALID_VALUE;
    if (stream->capture) {
        struct sim_task task = {.kind = SIM_TASK_CHILD};
        result = cuGraphClone(&task.child, exec->graph);
        return result ? result : sim_capture_add(stream, &task);
    }
    if (stream->legacy)
        result = sim_capture_implicit(stream->ctx, true);
    if (!result)
        result = take_memory(exec);
    if (!result)
        run(stream, exec);
    return result;
}

/* Take over the parameters of a graph of the same shape. */
static CUresult update(CUgraphExec exec, CUgraph graph, CUgraphNode *bad)
{
    if (!is_exec(exec) || !sim_is_graph(graph))
        return MICA_CUDA_INVALID_VALUE;
    bool same = graph->count == exec->graph->count;
    for (size_t n = 0; same && n < graph->count; n++) {
        same = graph->nodes[n]->task.kind == exec->graph->nodes[n]->task.kind && graph->nodes[n]->after_count == exec->graph->nodes[n]->after_count
            && graph->nodes[n]->task.kind != SIM_TASK_CHILD && graph->nodes[n]->task.kind != SIM_TASK_ALLOC;
        if (!same && bad)
            *bad = graph->nodes[n];
    }
    if (!same)
        return MICA_CUDA_GRAPH_UPDATE_FAILURE;
    for (size_t n = 0; n < graph->count; n++)
        exec->graph->nodes[n]->task = graph->nodes[n]->task;
    exec->source = graph;
    return MICA_CUDA_SUCCESS;
}

CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *node, int *result)
{
    CUresult error = update(exec, graph, node);
    if (result)
        *result = error ? 1 : 0;
    return error;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUupdateResult *result)
{
    CUupdateResult ignored;
    result = result ? result : &ignored;
    *result = (CUupdateResult){0};
    return cuGraphExecUpdate(exec, graph, &result->node, &result->result);
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUkernelNodeParams *params)
{
    struct sim_task task;
    if (!is_exec(exec) || !sim_is_node(node) || !params || node->graph != exec->source || node->place >= exec->graph->count)
        return MICA_CUDA_INVALID_VALUE;
    CUresult result = node->task.kind == SIM_TASK_KERNEL ? sim_kernel_task(params, &task) : MICA_CUDA_INVALID_VALUE;
    if (!result)
        exec->graph->nodes[node->place]->task = task;
    return result;
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node, const CUkernelNodeParams *params)
{
    return cuGraphExecKernelNodeSetParams(exec, node, params);
}

CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream)
{
    return cuGraphUpload(exec, stream ? stream : MICA_STREAM_PER_THREAD);
}

CUresult cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream)
{
    return cuGraphLaunch(exec, stream ? stream : MICA_STREAM_PER_THREAD);
}
