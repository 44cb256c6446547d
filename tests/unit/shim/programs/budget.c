/* The arithmetic of gate.c and meter.c on made-up clocks and events: an event is its time in milliseconds. Prints one number per question. */
#include <stdio.h>

#include "../../../../vgpu_shim/src/gate.c"
#include "../../../../vgpu_shim/src/meter.c"

struct mica_real mica_real;
struct mica_slice mica_slice;
_Atomic int mica_slice_state = 1, mica_driver_state = 2;
_Atomic uint64_t mica_next_tick = UINT64_MAX;
static struct mica_region memory;
struct mica_region *mica_region = &memory;
static uintptr_t running; /* an event at this time has not happened yet */
static int mode;          /* of captures, of this thread */
static int strict_calls;

void mica_slice_tick_slow(uint64_t now) { (void)now; }
CUresult mica_slice_start(void) { return 0; }
CUresult mica_slice_foreign(CUresult error) { return error; }
int mica_gpu_current(void) { return 0; }
void mica_ledger_busy(int gpu, uint64_t ns) { memory.gpus[gpu].busy += ns; }
bool mica_driver_load(void) { return true; }

static CUresult elapsed(float *ms, CUevent a, CUevent b)
{
    *ms = (float)((intptr_t)b - (intptr_t)a);
    return 0;
}

static CUresult query(CUevent event)
{
    strict_calls += mode != CAPTURE_RELAXED;
    return (uintptr_t)event == running ? MICA_CUDA_NOT_READY : 0;
}

static CUresult exchange(int *wanted)
{
    int old = mode;
    mode = *wanted;
    *wanted = old;
    return 0;
}

static void add(struct mica_meter *meter, uintptr_t begin, uintptr_t end, uintptr_t stream)
{
    meter->pairs[meter->tail++ % MICA_PAIRS] =
        (struct mica_pair){(CUevent)begin, (CUevent)end, (CUstream)stream, PENDING, 100000, 7 + meter->tail};
    meter->unsettled++;
}

/* Milliseconds charged for what has been added. */
static void settled(struct mica_meter *meter)
{
    uint64_t before = memory.gpus[0].busy;
    mica_meter_settle(meter);
    printf("%.0f\n", (double)(memory.gpus[0].busy - before) / 1e6);
}

int main(void)
{
    struct mica_region_gpu *gpu = &memory.gpus[0];
    const uint64_t start = 10000000000u;
    gpu->refilled_at = start;
    gpu->balance = -1000000000;
    refill(gpu, start + 10000000, 50);
    refill(gpu, start + 2000000, 50); /* another thread's reading, older */
    refill(gpu, start + 12000000, 50);
    printf("%lld\n", (long long)(gpu->balance + 1000000000) / 1000);

    gpu->busy = UINT64_C(60000000000);
    gpu->balance = -INT64_C(50000000000);
    refill(gpu, start + 22000000, 50);
    printf("%lld\n", (long long)gpu->balance / 1000000);
    gpu->busy = 0; /* nothing was ever used: no debt like that */
    refill(gpu, start + 32000000, 50);
    printf("%lld\n", (long long)gpu->balance / 1000000);

    struct mica_meter *meter = &meters[0];
    meter->context = (CUcontext)1;
    mica_real.cuEventElapsedTime = elapsed;
    mica_real.cuEventQuery = query;
    mica_real.cuThreadExchangeStreamCaptureMode = exchange;
    add(meter, 1000, 1001, 1);
    add(meter, 10, 900, 2); /* launched later, ran earlier */
    settled(meter);
    add(meter, 1000, 1003, 1); /* from where the last stretch began, and longer */
    add(meter, 1002, 1004, 2);
    add(meter, 1001, 1002, 3); /* wholly inside */
    settled(meter);
    running = 9000;
    add(meter, 2000, 9000, 1);
    add(meter, 2000, 2005, 1); /* behind it in its stream */
    add(meter, 2000, 2007, 2); /* not behind it */
    settled(meter);
    running = 0;
    settled(meter);
    printf("%d %d %u\n", strict_calls, mode, meter->unsettled);
    return 0;
}
