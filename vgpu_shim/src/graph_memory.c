/* Memory that graphs allocate. All graphs of a process share it, per card: it is taken when a graph is uploaded or launched and kept until it is
 * trimmed. The charge is what the driver says it holds (RESERVED_MEM_CURRENT) and, while launches are being made, what they may add to it. */
#include "graph_memory.h"

#include "gate.h"
#include "memory.h"

enum { ATTR_USED = 0, ATTR_RESERVED = 2, NODE_CHILD = 4, NODE_ALLOC = 10, DEEPEST = 16 };

static _Atomic int noted; /* some graph of this process may allocate */
static struct mica_table bounds; /* key: executable graph + GPU (they are aligned to 16); bytes: what a launch may take */

/* Per GPU. Charged to the ledger: what is held and what launches being made may add. */
static struct {
    mica_lock lock;
    uint64_t held;
    unsigned launching;
} cards[MICA_GPUS];

void mica_graph_memory_noted(void)
{
    atomic_store_explicit(&noted, 1, memory_order_relaxed);
}

static bool attribute(int gpu, int number, uint64_t *value)
{
    for (CUdevice device = 0; mica_real.cuDeviceGetGraphMemAttribute && device < mica_slice.device_count; device++)
        if (mica_gpu_of_device(device) == gpu)
            return mica_real.cuDeviceGetGraphMemAttribute(device, number, value) == 0;
    return false;
}

/* Charge what the driver holds now. Lock held. */
static void settle(int gpu)
{
    uint64_t now = 0;
    if (!attribute(gpu, ATTR_RESERVED, &now))
        return;
    if (now < cards[gpu].held)
        mica_ledger_release(gpu, cards[gpu].held - now);
    else if (now > cards[gpu].held)
        mica_charge_taken(gpu, now - cards[gpu].held);
    cards[gpu].held = now;
}

static void trim(int gpu)
{
    for (CUdevice device = 0; mica_real.cuDeviceGraphMemTrim && device < mica_slice.device_count; device++)
        if (mica_gpu_of_device(device) == gpu)
            (void)mica_real.cuDeviceGraphMemTrim(device);
}

void mica_graph_memory_trim(int gpu)
{
    if (!atomic_load_explicit(&noted, memory_order_relaxed) || !mica_try(&cards[gpu].lock))
        return;
    if (!cards[gpu].launching) /* a launch counts on what is there */
        trim(gpu);
    settle(gpu);
    mica_release(&cards[gpu].lock);
}

/* Bound of one executable graph on one GPU; false when it allocates nothing there. */
static bool bound_of(CUgraphExec exec, int gpu, uint64_t *bytes)
{
    mica_acquire(&bounds.lock);
    const struct mica_entry *entry = mica_table_find(&bounds, (uintptr_t)exec + (unsigned)gpu);
    if (entry)
        *bytes = entry->bytes;
    mica_release(&bounds.lock);
    return entry != NULL;
}

static void set_bound(CUgraphExec exec, int gpu, uint64_t bytes)
{
    const struct mica_entry entry = {.key = (uintptr_t)exec + (unsigned)gpu, .bytes = bytes, .gpu = gpu};
    (void)mica_table_put(&bounds, &entry);
}

/* What a launch may add to what is held. Lock held. */
static uint64_t growth(int gpu, uint64_t bound)
{
    uint64_t used = 0, room = 0;
    settle(gpu);
    if (!cards[gpu].launching && attribute(gpu, ATTR_USED, &used)) /* another launch may need the room that is there */
        room = cards[gpu].held > used ? cards[gpu].held - used : 0;
    return bound > room ? bound - room : 0;
}

/* The bound does not fit, and may be far above what the driver needs: let it take the memory before the launch, and take it back when that
 * does not fit either. Lock held. */
static bool upload(CUgraphExec exec, CUstream stream, int gpu)
{
    uint64_t now = 0, used = 0;
    if (!mica_real.cuGraphUpload || cards[gpu].launching || mica_real.cuGraphUpload(exec, stream) || !attribute(gpu, ATTR_RESERVED, &now)
        || !attribute(gpu, ATTR_USED, &used))
        return false;
    if (now > cards[gpu].held && !mica_charge(gpu, now - cards[gpu].held)) {
        trim(gpu);
        settle(gpu);
        return false;
    }
    cards[gpu].held = now;
    set_bound(exec, gpu, now > used ? now - used : 0);
    return true;
}

/* One launch or upload: what it may take is charged before. */
struct holding {
    uint64_t growth[MICA_GPUS], used[MICA_GPUS];
    uint32_t gpus; /* bit set */
};

static bool hold(struct holding *h, CUgraphExec exec, CUstream stream, int gpu)
{
    uint64_t bound;
    if (!bound_of(exec, gpu, &bound))
        return true;
    mica_acquire(&cards[gpu].lock);
    uint64_t more = growth(gpu, bound);
    cards[gpu].launching++; /* from here on nobody else counts on the room that is there, or trims it away */
    mica_release(&cards[gpu].lock);
    bool fits = !more || mica_charge(gpu, more);
    mica_acquire(&cards[gpu].lock);
    if (!fits) {
        cards[gpu].launching--;
        fits = upload(exec, stream, gpu);
        cards[gpu].launching += fits;
        more = 0;
    }
    if (fits) {
        (void)attribute(gpu, ATTR_USED, &h->used[gpu]);
        h->growth[gpu] = more;
        h->gpus |= 1u << gpu;
    }
    mica_release(&cards[gpu].lock);
    return fits;
}

static void drop(const struct holding *h, CUgraphExec exec, int gpu, bool launched)
{
    uint64_t bound;
    mica_acquire(&cards[gpu].lock);
    cards[gpu].launching--;
    uint64_t before = cards[gpu].held, now = before;
    (void)attribute(gpu, ATTR_RESERVED, &now);
    uint64_t charged = before + h->growth[gpu];
    if (now > charged)
        mica_charge_taken(gpu, now - charged);
    else
        mica_ledger_release(gpu, charged - now);
    cards[gpu].held = now;
    /* what was there was enough: the same graph needs no more next time */
    if (launched && !cards[gpu].launching && now >= h->used[gpu] && bound_of(exec, gpu, &bound) && now - h->used[gpu] < bound)
        set_bound(exec, gpu, now - h->used[gpu]);
    mica_release(&cards[gpu].lock);
}

static CUresult with_memory(CUgraphExec exec, CUstream stream, bool per_thread, __typeof__(cuGraphLaunch) *call)
{
    struct holding h = {0};
    CUstream real = per_thread && !stream ? MICA_STREAM_PER_THREAD : stream;
    if (mica_slice_check() || mica_gate_capturing(real)) /* captured: counted when that graph is launched */
        return call(exec, stream);
    bool fits = true;
    mica_activity_begin();
    for (int gpu = 0; fits && gpu < MICA_GPUS; gpu++)
        fits = hold(&h, exec, real, gpu);
    CUresult result = fits ? call(exec, stream) : MICA_CUDA_OUT_OF_MEMORY;
    for (int gpu = 0; gpu < MICA_GPUS; gpu++)
        if (h.gpus & 1u << gpu)
            drop(&h, exec, gpu, !result);
    mica_activity_end();
    return result;
}

CUresult mica_graph_launch(CUgraphExec exec, CUstream stream, bool per_thread)
{
    __typeof__(cuGraphLaunch) *call = mica_driver() ? per_thread ? mica_real.cuGraphLaunch_ptsz : mica_real.cuGraphLaunch : NULL;
    if (!call)
        return mica_driver_absent();
    return MICA_LIKELY(!atomic_load_explicit(&noted, memory_order_relaxed)) ? call(exec, stream) : with_memory(exec, stream, per_thread, call);
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream stream)
{
    bool may = mica_driver() && mica_real.cuGraphUpload && atomic_load(&noted);
    return may ? with_memory(exec, stream, false, mica_real.cuGraphUpload) : MICA_REAL(cuGraphUpload, exec, stream);
}

CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream)
{
    bool may = mica_driver() && mica_real.cuGraphUpload_ptsz && atomic_load(&noted);
    return may ? with_memory(exec, stream, true, mica_real.cuGraphUpload_ptsz) : MICA_REAL(cuGraphUpload_ptsz, exec, stream);
}

static uint64_t rounded(CUdevice device, uint64_t bytes)
{
    const CUmemProp prop = {.type = 1, .location = {.type = MICA_LOCATION_DEVICE, .id = device}};
    size_t unit = 0, up;
    if (!mica_real.cuMemGetAllocationGranularity || mica_real.cuMemGetAllocationGranularity(&unit, &prop, 0) || !unit
        || __builtin_add_overflow(bytes, unit - 1, &up))
        return bytes;
    return up / unit * unit;
}

/* Add up what the nodes of a graph, and of graphs in it, allocate on each GPU. */
static void sum(CUgraph graph, uint64_t bytes[MICA_GPUS], int depth)
{
    size_t count = 0;
    if (depth > DEEPEST || mica_real.cuGraphGetNodes(graph, NULL, &count) || !count)
        return;
    struct mica_pages pages = mica_pages_get(count * sizeof(CUgraphNode));
    CUgraphNode *nodes = pages.at;
    if (!nodes || mica_real.cuGraphGetNodes(graph, nodes, &count))
        count = 0;
    for (size_t n = 0; n < count; n++) {
        CUallocNodeParams params;
        CUgraph child;
        int type = 0;
        (void)mica_real.cuGraphNodeGetType(nodes[n], &type);
        if (type == NODE_CHILD && mica_real.cuGraphChildGraphNodeGetGraph && mica_real.cuGraphChildGraphNodeGetGraph(nodes[n], &child) == 0)
            sum(child, bytes, depth + 1);
        if (type != NODE_ALLOC || !mica_real.cuGraphMemAllocNodeGetParams || mica_real.cuGraphMemAllocNodeGetParams(nodes[n], &params))
            continue;
        int gpu = mica_gpu_of_location(&params.pool.location);
        if (gpu >= 0 && __builtin_add_overflow(bytes[gpu], rounded(params.pool.location.id, params.bytes), &bytes[gpu]))
            bytes[gpu] = MICA_USED_MASK;
    }
    mica_pages_put(pages);
}

/* A graph became executable: note what launching it may take. */
static CUresult instantiated(CUresult result, const CUgraphExec *exec, CUgraph graph)
{
    uint64_t bytes[MICA_GPUS] = {0};
    if (result || MICA_LIKELY(!atomic_load_explicit(&noted, memory_order_relaxed)) || mica_slice_check() || !mica_real.cuGraphGetNodes
        || !mica_real.cuGraphNodeGetType)
        return result;
    sum(graph, bytes, 0);
    for (int gpu = 0; gpu < MICA_GPUS; gpu++)
        if (bytes[gpu])
            set_bound(*exec, gpu, bytes[gpu]);
    return result;
}

CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *bad, char *log, size_t size)
{
    return instantiated(MICA_REAL(cuGraphInstantiate, exec, graph, bad, log, size), exec, graph);
}

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *bad, char *log, size_t size)
{
    return instantiated(MICA_REAL(cuGraphInstantiate_v2, exec, graph, bad, log, size), exec, graph);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    return instantiated(MICA_REAL(cuGraphInstantiateWithFlags, exec, graph, flags), exec, graph);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, CUinstantiateParams *params)
{
    return instantiated(MICA_REAL(cuGraphInstantiateWithParams, exec, graph, params), exec, graph);
}

CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec *exec, CUgraph graph, CUinstantiateParams *params)
{
    return instantiated(MICA_REAL(cuGraphInstantiateWithParams_ptsz, exec, graph, params), exec, graph);
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    struct mica_entry entry;
    for (unsigned gpu = 0; atomic_load(&noted) && gpu < MICA_GPUS; gpu++)
        (void)mica_table_take(&bounds, (uintptr_t)exec + gpu, &entry);
    return MICA_REAL(cuGraphExecDestroy, exec);
}

/* A node that allocates: not on a GPU that is not ours. */
static CUresult may_allocate(const CUpoolProps *pool)
{
    CUresult result = mica_slice_check();
    if (result)
        return result;
    int gpu = mica_gpu_of_location(&pool->location);
    mica_graph_memory_noted();
    return mica_memory_usable(&gpu, MICA_CUDA_OUT_OF_MEMORY);
}

CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUallocNodeParams *params)
{
    CUresult result = params ? may_allocate(&params->pool) : MICA_CUDA_SUCCESS;
    return result ? result : MICA_REAL(cuGraphAddMemAllocNode, node, graph, after, count, params);
}

#define ADD_NODE(real) \
    do { \
        CUresult result = params && params->type == NODE_ALLOC ? may_allocate(&params->as.alloc.pool) : MICA_CUDA_SUCCESS; \
        return result ? result : (real); \
    } while (0)

CUresult cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUgraphNodeParams *params)
{
    ADD_NODE(MICA_REAL(cuGraphAddNode, node, graph, after, count, params));
}

CUresult cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, const void *edges, size_t count, CUgraphNodeParams *params)
{
    ADD_NODE(MICA_REAL(cuGraphAddNode_v2, node, graph, after, edges, count, params));
}

CUresult cuGraphAddNode_v3(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, const void *edges, size_t count, CUgraphNodeParams *params)
{
    ADD_NODE(MICA_REAL(cuGraphAddNode_v3, node, graph, after, edges, count, params));
}

CUresult cuDeviceGraphMemTrim(CUdevice device)
{
    mica_activity_begin();
    CUresult result = MICA_REAL(cuDeviceGraphMemTrim, device);
    int gpu = atomic_load(&mica_slice_state) == 1 ? mica_gpu_of_device(device) : MICA_GPU_NONE;
    if (!result && gpu >= 0 && atomic_load(&noted)) {
        mica_acquire(&cards[gpu].lock);
        settle(gpu);
        mica_release(&cards[gpu].lock);
    }
    mica_activity_end();
    return result;
}

void mica_graph_memory_forked(void)
{
    atomic_store(&noted, 0);
    mica_table_forked(&bounds);
    for (int gpu = 0; gpu < MICA_GPUS; gpu++) {
        atomic_store(&cards[gpu].lock, 0);
        cards[gpu].held = cards[gpu].launching = 0;
    }
}
