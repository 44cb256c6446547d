/* The arithmetic of gate.c, meter.c, close.c, settle.c and shapes.c on made-up clocks and events: an event is its time in microseconds. Prints one number per
 * question. */
#include <stdio.h>

#include "made_up.h"

static uintptr_t waiting; /* a launch of 8 ms that begins at this time has not begun yet */
static int mode;          /* of captures, of this thread */
static int strict_calls;
static uint64_t epoch;

static CUresult elapsed(float *ms, CUevent a, CUevent b)
{
    *ms = (float)((double)((intptr_t)b - (intptr_t)a) / 1000);
    return 0;
}

static CUresult query(CUevent event)
{
    strict_calls += mode != CAPTURE_RELAXED;
    return (uintptr_t)event == waiting || (uintptr_t)event == waiting + 8000 ? MICA_CUDA_NOT_READY : 0;
}

static CUresult exchange(int *wanted)
{
    int old = mode;
    mode = *wanted;
    *wanted = old;
    return 0;
}

/* A launch of one shape that nobody knew, from `begin` to `end` (us), made long before. */
static void add(struct mica_meter *meter, uintptr_t begin, uintptr_t end, uintptr_t stream)
{
    const struct mica_opening opening = {.stream = (CUstream)stream, .shape = (uint16_t)(meter->unsettled + 1), .limit = 1, .estimate = 1000, .budget = 1000};
    struct mica_batch *batch = next_batch(meter);
    prepare(meter, batch, &opening);
    batch->begin = (CUevent)begin;
    batch->end = (CUevent)end;
    batch->before = batch->recorded = epoch;
    batch->sent = epoch;
    batch->state = PENDING;
}

/* Microseconds charged for what has been added. */
static void settled(struct mica_meter *meter)
{
    uint64_t before = memory.gpus[0].busy;
    mica_meter_settle(meter);
    printf("%.0f\n", (double)(memory.gpus[0].busy - before) / 1e3);
}

static CUresult create(CUevent *event, unsigned flags) { *event = (CUevent)(uintptr_t)(1 + flags); return 0; }

int main(void)
{
    struct mica_region_gpu *gpu = &memory.gpus[0];
    const uint64_t start = 10000000000u;
    gpu->refilled_at = start;
    gpu->balance = -1000000000;
    refill(gpu, start + 10000000, 50, false);
    refill(gpu, start + 2000000, 50, false); /* another thread's reading, older */
    refill(gpu, start + 12000000, 50, false);
    printf("%lld\n", (long long)(gpu->balance + 1000000000) / 1000);

    gpu->busy = UINT64_C(60000000000);
    gpu->balance = -INT64_C(50000000000);
    refill(gpu, start + 22000000, 50, false);
    printf("%lld\n", (long long)gpu->balance / 1000000);
    gpu->busy = 0; /* nothing was ever used: no debt like that */
    refill(gpu, start + 32000000, 50, false);
    printf("%lld\n", (long long)gpu->balance / 1000000);

    struct mica_meter *meter = &mica_meters[0];
    epoch = mica_now() - 500000000;
    meter->context = (CUcontext)1;
    meter->base = (CUevent)1;
    meter->base_at = (int64_t)epoch;
    mica_captures = 1; /* somewhere in the program */
    mica_real.cuEventElapsedTime = elapsed;
    mica_real.cuEventQuery = query;
    mica_real.cuEventCreate = create;
    mica_real.cuThreadExchangeStreamCaptureMode = exchange;
    add(meter, 10001, 10901, 2);
    add(meter, 11001, 11002, 1);
    settled(meter);
    add(meter, 11001, 11004, 1); /* from where the last stretch began, and longer */
    add(meter, 11003, 11005, 2);
    add(meter, 11002, 11003, 3); /* wholly inside */
    settled(meter);
    waiting = 21002;
    add(meter, 21002, 29002, 1);
    add(meter, 21001, 21006, 1); /* behind it in its stream */
    add(meter, 21001, 21008, 2); /* not behind it */
    settled(meter);
    waiting = 0;
    settled(meter);
    printf("%d %d %u %lld\n", strict_calls, mode, meter->unsettled, (long long)memory.gpus[0].inflight);
    return 0;
}
