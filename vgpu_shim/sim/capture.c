/* Stream capture: work of a stream, and of streams that join it through events, becomes a graph instead of being done. The rules and errors are those of
 * the API's description of stream capture. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum { MODE_GLOBAL, MODE_THREAD, MODE_RELAXED };
enum { STATUS_NONE, STATUS_ACTIVE, STATUS_INVALID };

struct sim_capture {
    CUgraph graph;
    struct mica_stream *origin;
    struct mica_ctx *ctx;
    pthread_t thread;
    int mode;
    bool invalid, keeps_graph;
    uint64_t id;
    size_t first; /* nodes before this one were there when it began */
    struct sim_capture *next;
};

static struct sim_capture *captures;
static _Atomic int active; /* captures there are: the common case is none */
static uint64_t next_id;
static __thread int thread_mode;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

CUresult cuThreadExchangeStreamCaptureMode(int *mode)
{
    if (!mode || *mode < MODE_GLOBAL || *mode > MODE_RELAXED)
        return MICA_CUDA_INVALID_VALUE;
    int old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return MICA_CUDA_SUCCESS;
}

/* Under the lock under which the end of a capture leaves its streams: afterwards it is freed. */
bool sim_capture_break(const struct mica_stream *stream)
{
    pthread_mutex_lock(&sim.mutex);
    const bool captured = stream->capture != NULL;
    if (captured)
        stream->capture->invalid = true;
    pthread_mutex_unlock(&sim.mutex);
    return captured;
}

bool sim_capture_break_all(const struct mica_ctx *ctx)
{
    bool found = false;
    pthread_mutex_lock(&mutex);
    for (struct sim_capture *at = captures; at; at = at->next)
        if (at->ctx->device == ctx->device)
            found = at->invalid = true;
    pthread_mutex_unlock(&mutex);
    return found;
}

CUresult sim_unsafe_call(void)
{
    CUresult result = MICA_CUDA_SUCCESS;
    if (!active || thread_mode == MODE_RELAXED)
        return result;
    pthread_mutex_lock(&mutex);
    for (struct sim_capture *at = captures; at; at = at->next) {
        bool mine = pthread_equal(at->thread, pthread_self());
        if (mine ? at->mode != MODE_RELAXED : thread_mode == MODE_GLOBAL && at->mode == MODE_GLOBAL) {
            at->invalid = true;
            result = MICA_CUDA_CAPTURE_UNSUPPORTED;
        }
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

CUresult sim_capture_implicit(const struct mica_ctx *ctx, bool invalidate)
{
    CUresult result = MICA_CUDA_SUCCESS;
    if (!active)
        return result;
    pthread_mutex_lock(&sim.mutex);
    for (struct mica_stream *at = sim_streams(); at; at = at->next) {
        if (!at->capture || at->non_blocking || at->ctx->device != ctx->device)
            continue;
        at->capture->invalid = at->capture->invalid || invalidate;
        result = MICA_CUDA_CAPTURE_IMPLICIT;
    }
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

/* The stream's tips become these nodes. */
static bool set_tips(struct mica_stream *stream, struct mica_node *const *nodes, size_t count)
{
    struct mica_node **tips = malloc((count ? count : 1) * sizeof *tips);
    if (!tips)
        return false;
    if (count)
        memcpy(tips, nodes, count * sizeof *tips);
    free(stream->tips);
    stream->tips = tips;
    stream->tip_count = count;
    return true;
}

static CUresult usable(struct mica_stream *stream)
{
    return stream->capture->invalid ? MICA_CUDA_CAPTURE_INVALIDATED : MICA_CUDA_SUCCESS;
}

CUresult sim_capture_add(struct mica_stream *stream, const struct sim_task *task)
{
    CUgraphNode node;
    CUresult result = usable(stream);
    if (!result)
        result = sim_graph_add(stream->capture->graph, &node, stream->tips, stream->tip_count, task);
    if (!result && !set_tips(stream, &node, 1))
        result = MICA_CUDA_OUT_OF_MEMORY;
    return result;
}

CUresult sim_capture_alloc(struct mica_stream *stream, size_t bytes, CUdeviceptr *pointer)
{
    struct sim_task task = {.kind = SIM_TASK_ALLOC, .bytes = sim_round(bytes), .pointer = sim_graph_pointer(bytes), .device = stream->ctx->device};
    CUresult result = sim_capture_add(stream, &task);
    if (!result)
        *pointer = task.pointer;
    return result;
}

CUresult sim_capture_event(struct mica_stream *stream, CUevent event)
{
    CUresult result = usable(stream);
    if (result)
        return result;
    struct mica_node **tips = malloc((stream->tip_count + 1) * sizeof *tips);
    if (!tips)
        return MICA_CUDA_OUT_OF_MEMORY;
    if (stream->tip_count)
        memcpy(tips, stream->tips, stream->tip_count * sizeof *tips);
    free(event->tips);
    event->tips = tips;
    event->tip_count = stream->tip_count;
    event->capture = stream->capture;
    event->capture_id = stream->capture->id;
    return MICA_CUDA_SUCCESS;
}

/* An event may outlive its capture. */
static bool alive(const struct mica_event *event, bool invalidate)
{
    pthread_mutex_lock(&mutex);
    struct sim_capture *at = captures;
    while (at && (at != event->capture || at->id != event->capture_id))
        at = at->next;
    if (at && invalidate)
        at->invalid = true;
    pthread_mutex_unlock(&mutex);
    return at != NULL;
}

bool sim_capture_break_event(const struct mica_event *event)
{
    return alive(event, true);
}

CUresult sim_capture_wait(struct mica_stream *stream, CUevent event)
{
    if (!event->capture) { /* from outside into a capture */
        stream->capture->invalid = true;
        return MICA_CUDA_CAPTURE_ISOLATION;
    }
    if (!alive(event, false)) {
        if (stream->capture)
            stream->capture->invalid = true;
        return MICA_CUDA_CAPTURED_EVENT;
    }
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->invalid = event->capture->invalid = true;
        return MICA_CUDA_CAPTURE_MERGE;
    }
    if (event->capture->invalid)
        return MICA_CUDA_CAPTURE_INVALIDATED;
    if (stream->legacy) {
        event->capture->invalid = true;
        return MICA_CUDA_CAPTURE_IMPLICIT;
    }
    size_t old = stream->capture ? stream->tip_count : 0, count = old;
    struct mica_node **both = malloc((old + event->tip_count + 1) * sizeof *both);
    if (!both)
        return MICA_CUDA_OUT_OF_MEMORY;
    if (old)
        memcpy(both, stream->tips, old * sizeof *both);
    for (size_t i = 0; i < event->tip_count; i++) {
        size_t seen = 0;
        while (seen < count && both[seen] != event->tips[i])
            seen++;
        if (seen == count)
            both[count++] = event->tips[i];
    }
    pthread_mutex_lock(&sim.mutex); /* the end of any capture looks at all streams */
    stream->capture = event->capture;
    pthread_mutex_unlock(&sim.mutex);
    bool ok = set_tips(stream, both, count);
    free(both);
    return ok ? MICA_CUDA_SUCCESS : MICA_CUDA_OUT_OF_MEMORY;
}

static CUresult begin(CUstream handle, int mode, CUgraph graph, const CUgraphNode *nodes, size_t count)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    if (mode < MODE_GLOBAL || mode > MODE_RELAXED || (graph && !sim_is_graph(graph)))
        return MICA_CUDA_INVALID_VALUE;
    if (stream->legacy)
        return MICA_CUDA_CAPTURE_UNSUPPORTED;
    if (stream->capture)
        return MICA_CUDA_ILLEGAL_STATE;
    struct sim_capture *capture = calloc(1, sizeof *capture);
    if (!capture)
        return MICA_CUDA_OUT_OF_MEMORY;
    *capture = (struct sim_capture){.graph = graph ? graph : sim_graph_new(), .origin = stream, .ctx = stream->ctx, .thread = pthread_self(), .mode = mode,
                                    .keeps_graph = graph != NULL, .first = graph ? graph->count : 0};
    if (!capture->graph || !set_tips(stream, nodes, count)) {
        free(capture);
        return MICA_CUDA_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&mutex);
    capture->id = ++next_id;
    capture->next = captures;
    captures = capture;
    active++;
    pthread_mutex_unlock(&mutex);
    pthread_mutex_lock(&sim.mutex); /* the end of any capture looks at all streams */
    stream->capture = capture;
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

/* True when all that other streams added comes before what the origin's next node would follow. */
static bool joined(const struct sim_capture *capture)
{
    const struct mica_graph *graph = capture->graph;
    bool *before = calloc(graph->count + 1, sizeof *before);
    bool all = before != NULL, again = all;
    for (size_t i = 0; before && i < capture->origin->tip_count; i++)
        before[capture->origin->tips[i]->place] = true;
    while (again) {
        again = false;
        for (size_t n = graph->count; n-- > 0;)
            for (size_t i = 0; before[n] && i < graph->nodes[n]->after_count; i++) {
                bool *earlier = &before[graph->nodes[n]->after[i]->place];
                again = again || !*earlier;
                *earlier = true;
            }
    }
    for (size_t n = capture->first; all && n < graph->count; n++)
        all = before[n];
    free(before);
    return all;
}

static void finish(struct sim_capture *capture)
{
    pthread_mutex_lock(&sim.mutex);
    for (struct mica_stream *at = sim_streams(); at; at = at->next)
        if (at->capture == capture) {
            at->capture = NULL;
            at->tip_count = 0;
        }
    pthread_mutex_unlock(&sim.mutex);
    pthread_mutex_lock(&mutex);
    for (struct sim_capture **at = &captures; *at; at = &(*at)->next)
        if (*at == capture) {
            *at = capture->next;
            break;
        }
    active--;
    pthread_mutex_unlock(&mutex);
    free(capture);
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (result)
        return result;
    if (!graph)
        return MICA_CUDA_INVALID_VALUE;
    *graph = NULL;
    struct sim_capture *capture = stream->capture;
    if (!capture)
        return MICA_CUDA_ILLEGAL_STATE;
    if (capture->origin != stream) {
        capture->invalid = true;
        return MICA_CUDA_CAPTURE_UNMATCHED;
    }
    if (capture->mode != MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
        return MICA_CUDA_CAPTURE_WRONG_THREAD;
    if (capture->invalid)
        result = MICA_CUDA_CAPTURE_INVALIDATED;
    else if (!joined(capture))
        result = MICA_CUDA_CAPTURE_UNJOINED;
    if (!result)
        *graph = capture->graph;
    else if (!capture->keeps_graph)
        (void)cuGraphDestroy(capture->graph);
    finish(capture);
    return result;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    return begin(stream, mode, NULL, NULL, 0);
}

CUresult cuStreamBeginCapture(CUstream stream)
{
    return begin(stream, MODE_GLOBAL, NULL, NULL, 0);
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    (void)edges;
    return sim_is_graph(graph) ? begin(stream, mode, graph, nodes, count) : MICA_CUDA_INVALID_VALUE;
}

CUresult cuStreamIsCapturing(CUstream handle, int *status)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !status)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result && stream->legacy)
        result = sim_capture_implicit(stream->ctx, false);
    if (!result)
        *status = !stream->capture ? STATUS_NONE : stream->capture->invalid ? STATUS_INVALID : STATUS_ACTIVE;
    return result;
}

CUresult cuStreamGetCaptureInfo_v2(CUstream handle, int *status, uint64_t *id, CUgraph *graph, const CUgraphNode **nodes, size_t *count)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result)
        result = cuStreamIsCapturing(handle, status);
    if (result || *status != STATUS_ACTIVE)
        return result;
    if (id)
        *id = stream->capture->id;
    if (graph)
        *graph = stream->capture->graph;
    if (nodes)
        *nodes = stream->tips;
    if (count)
        *count = stream->tip_count;
    return MICA_CUDA_SUCCESS;
}

#define PER_THREAD(stream) ((stream) ? (stream) : MICA_STREAM_PER_THREAD)

CUresult cuStreamBeginCapture_ptsz(CUstream stream)
{
    return cuStreamBeginCapture(PER_THREAD(stream));
}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, int mode)
{
    return cuStreamBeginCapture_v2(PER_THREAD(stream), mode);
}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const void *nodes, const void *edges, size_t count, int mode)
{
    return cuStreamBeginCaptureToGraph(PER_THREAD(stream), graph, nodes, edges, count, mode);
}

CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph)
{
    return cuStreamEndCapture(PER_THREAD(stream), graph);
}

CUresult cuStreamIsCapturing_ptsz(CUstream stream, int *status)
{
    return cuStreamIsCapturing(PER_THREAD(stream), status);
}

CUresult cuStreamGetCaptureInfo_v2_ptsz(CUstream stream, int *status, uint64_t *id, CUgraph *graph, const CUgraphNode **nodes, size_t *count)
{
    return cuStreamGetCaptureInfo_v2(PER_THREAD(stream), status, id, graph, nodes, count);
}
