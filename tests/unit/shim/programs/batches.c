/* The states of batches when threads meet in the worst order, on a made-up driver. One line of JSON per question. */
#include <stdio.h>

#include "made_up.h"

enum { CONTEXT = 64, OTHER = 128, STREAM = 1 << 20 };

static uintptr_t current = CONTEXT, recorded_in;
static int pushes, records;
static CUresult done = MICA_CUDA_NOT_READY;
static uintptr_t below;

static CUresult get_current(CUcontext *out) { *out = (CUcontext)current; return 0; }
static CUresult push(CUcontext context) { below = current; current = (uintptr_t)context; pushes++; return 0; }
static CUresult pop(CUcontext *out) { *out = (CUcontext)current; current = below; return 0; }
static CUresult create(CUevent *event, unsigned flags) { *event = (CUevent)(uintptr_t)(8 + flags); return 0; }
static CUresult record_event(CUevent event, CUstream stream) { (void)event, (void)stream; recorded_in = current; records++; return 0; }
static CUresult query_event(CUevent event) { (void)event; return done; }
static CUresult query_stream(CUstream stream) { (void)stream; return done; }
static CUresult elapsed(float *ms, CUevent a, CUevent b) { (void)a, (void)b; *ms = 0; return 0; }

static struct mica_meter *meter = &mica_meters[0];

static struct mica_batch *opened(uintptr_t stream, unsigned limit)
{
    bool revoked;
    const struct mica_opening opening = {.stream = (CUstream)stream, .shape = 1, .limit = limit, .estimate = 1000, .budget = 100000};
    return mica_meter_open(meter, &opening, &revoked);
}

static bool is_open(const struct mica_batch *batch)
{
    return (atomic_load(&batch->word) & MICA_WORD_OPEN) != 0;
}

static void over(void)
{
    done = 0;
    mica_meter_settle(meter);
    done = MICA_CUDA_NOT_READY;
}

static void two_threads_open_in_one_stream(void)
{
    struct mica_batch *one = opened(STREAM, 64), *other = opened(STREAM, 64);
    mica_meter_leave(one, true);
    mica_meter_leave(other, true);
    mica_meter_close(meter, MICA_CLOSE_HERE, false);
    over();
    printf("[%u]\n", mica_meter_unsettled(meter));
}

static void the_first_of_two_launches_fails(void)
{
    const unsigned before = mica_shapes[1].samples;
    struct mica_batch *batch = opened(STREAM, 2);
    struct mica_batch *joined = mica_meter_join(STREAM, 1, 1000, 0);
    mica_meter_leave(batch, false);
    mica_meter_leave(joined, true);
    over();
    printf("[%d, %u]\n", joined == batch, mica_shapes[1].samples - before);
}

static void closed_too_late_it_is_anothers(void)
{
    struct mica_batch *batch = opened(STREAM, 64);
    mica_meter_leave(batch, true);
    const uint64_t word = atomic_load(&batch->word);
    mica_meter_close(meter, MICA_CLOSE_HERE, false);
    over();
    struct mica_batch *again = opened(STREAM, 64);
    mica_meter_leave(again, true);
    mica_meter_close_batch(batch, word, MICA_CLOSE_BESIDE);
    printf("[%d, %d, %d]\n", again == batch, is_open(again), mica_meter_late(again));
    mica_meter_close(meter, MICA_CLOSE_HERE, false);
    over();
}

static void closed_where_another_context_is_current(void)
{
    struct mica_batch *batch = opened(0, 64);
    mica_meter_leave(batch, true);
    current = OTHER;
    mica_meter_close_batch(batch, atomic_load(&batch->word), MICA_CLOSE_BESIDE);
    printf("[%d, %d]\n", recorded_in == CONTEXT, current == OTHER);
    current = CONTEXT;
    over();
}

static void closed_beside_blocking_streams(void)
{
    struct mica_batch *batch = opened(0, 64);
    const int before = records;
    mica_meter_blocking = 1;
    mica_meter_leave(batch, true);
    mica_meter_close_batch(batch, atomic_load(&batch->word), MICA_CLOSE_BESIDE);
    mica_meter_settle(meter);
    const unsigned runs = mica_meter_unsettled(meter);
    over();
    printf("[%d, %u, %u]\n", records - before, runs, mica_meter_unsettled(meter));
    mica_meter_blocking = 0;
}

static void opened_while_a_capture_begins(void)
{
    mica_captures = 1;
    struct mica_batch *batch = opened(STREAM, 64);
    const bool open = is_open(batch);
    mica_meter_leave(batch, true);
    mica_captures = 0;
    printf("[%d, %d]\n", open, batch->state == MICA_BATCH_PENDING);
    over();
}

static void at_rest(void)
{
    struct mica_batch *batch = opened(STREAM, 64);
    mica_meter_leave(batch, true);
    mica_meter_rest((CUcontext)CONTEXT);
    const int before = pushes + records;
    mica_meter_serve(meter, true);
    mica_meter_close_batch(batch, atomic_load(&batch->word), MICA_CLOSE_BESIDE);
    const bool refused = !opened(STREAM, 64);
    const int touched = pushes + records - before;
    mica_meter_resume((CUcontext)CONTEXT, false);
    struct mica_batch *after = opened(STREAM, 64);
    mica_meter_leave(after, true);
    mica_meter_rest((CUcontext)CONTEXT);
    mica_meter_resume((CUcontext)CONTEXT, true);
    printf("[%d, %d, %d, %u, %d]\n", touched, refused, after != NULL, mica_meter_unsettled(meter), meter->context == NULL);
}

int main(void)
{
    meter->context = (CUcontext)CONTEXT;
    mica_real.cuCtxGetCurrent = get_current;
    mica_real.cuCtxPushCurrent_v2 = push;
    mica_real.cuCtxPopCurrent_v2 = pop;
    mica_real.cuEventCreate = create;
    mica_real.cuEventRecord = record_event;
    mica_real.cuEventQuery = query_event;
    mica_real.cuEventElapsedTime = elapsed;
    mica_real.cuStreamQuery = query_stream;
    two_threads_open_in_one_stream();
    the_first_of_two_launches_fails();
    closed_too_late_it_is_anothers();
    closed_where_another_context_is_current();
    closed_beside_blocking_streams();
    opened_while_a_capture_begins();
    at_rest();
    return 0;
}
