/* Host functions in streams: a thread of the driver runs each when its stream has come to it. */
#include "stream.h"

#include <stdlib.h>

struct pending {
    CUhostFn run;
    void *user;
    struct sim_device *device;
    int queue;
    uint64_t sequence;
    struct pending *next;
};

static struct pending *first, **last = &first;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static bool running;

/* Take the first function whose turn has come off the list; with the mutex held. */
static struct pending *due(void)
{
    for (struct pending **at = &first; *at; at = &(*at)->next) {
        struct pending *found = *at;
        sim_state_lock(found->device->gpu);
        sim_sched_advance(sim.state, found->device->gpu, &sim.config.timing);
        bool now = sim_queue_of(found->queue)->head == found->sequence;
        sim_state_unlock(found->device->gpu);
        if (!now)
            continue;
        *at = found->next;
        last = found->next ? last : at;
        return found;
    }
    return NULL;
}

static void *serve(void *argument)
{
    (void)argument;
    for (;;) {
        pthread_mutex_lock(&mutex);
        while (!first)
            pthread_cond_wait(&more, &mutex);
        struct pending *work = due();
        pthread_mutex_unlock(&mutex);
        if (!work) {
            sim_doze(20000);
            continue;
        }
        work->run(work->user);
        sim_state_lock(work->device->gpu);
        sim_sched_advance(sim.state, work->device->gpu, &sim.config.timing);
        sim_queue_of(work->queue)->ops[work->sequence % SIM_RING].value = 1;
        sim_sched_settle(sim.state, work->device->gpu, sim.slot);
        sim_state_unlock(work->device->gpu);
        free(work);
    }
    return NULL;
}

void sim_host_push(struct mica_stream *stream, CUhostFn run, void *user)
{
    struct pending *work = malloc(sizeof *work);
    pthread_t thread;
    if (!work)
        return;
    sim_push(stream, (struct sim_op){.kind = SIM_OP_HOST}, NULL);
    *work = (struct pending){.run = run, .user = user, .device = sim_device_of(stream->ctx), .queue = stream->queue, .sequence = stream->last - 1};
    pthread_mutex_lock(&mutex);
    *last = work;
    last = &work->next;
    if (!running && pthread_create(&thread, NULL, serve, NULL) == 0)
        running = pthread_detach(thread) == 0;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&mutex);
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn run, void *user)
{
    struct mica_stream *stream;
    CUresult result = sim_stream(handle, &stream);
    if (!result && !run)
        result = MICA_CUDA_INVALID_VALUE;
    struct sim_task task = {.kind = SIM_TASK_HOST, .run = run, .user = user};
    return result ? result : sim_submit(stream, &task);
}

CUresult cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn run, void *user)
{
    return cuLaunchHostFunc(stream ? stream : MICA_STREAM_PER_THREAD, run, user);
}
