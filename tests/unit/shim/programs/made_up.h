/* The parts of the limiter that count GPU time, and what they need of the rest made up: for programs that are one file with them. */
#ifndef MADE_UP_H
#define MADE_UP_H

#include "../../../../vgpu_shim/src/captures.c"
#include "../../../../vgpu_shim/src/close.c"
#include "../../../../vgpu_shim/src/gate.c"
#include "../../../../vgpu_shim/src/meter.c"
#include "../../../../vgpu_shim/src/pay.c"
#include "../../../../vgpu_shim/src/settle.c"
#include "../../../../vgpu_shim/src/shapes.c"
#include "../../../../vgpu_shim/src/table.c"

struct mica_real mica_real;
struct mica_slice mica_slice;
_Atomic int mica_slice_state = 1, mica_driver_state = 2, mica_helper_state = MICA_HELPER_AWAKE;
_Atomic uint64_t mica_next_tick = UINT64_MAX;
static struct mica_region memory;
struct mica_region *mica_region = &memory;
void mica_slice_tick_slow(uint64_t now) { (void)now; }
CUcontext mica_memory_context(void) { return NULL; }
CUresult mica_slice_start(void) { return 0; }
CUresult mica_slice_foreign(CUresult error) { return error; }
int mica_gpu_current(void) { return 0; }
void mica_ledger_busy(int gpu, uint64_t ns) { memory.gpus[gpu].busy += ns; }
void mica_work_add(int gpu, int64_t ns, int batches) { memory.gpus[gpu].inflight += ns; memory.gpus[gpu].batches += (unsigned)batches; }
bool mica_driver_load(void) { return true; }
void mica_helper_wake_slow(void) { }
bool mica_lease_arbiter(uint64_t now) { return now == 0; }
int64_t mica_lease_rest(int gpu, uint64_t now) { (void)gpu, (void)now; return MICA_LEASE_OPEN; }
void mica_lease_wait(int gpu, uint64_t ns) { (void)gpu, (void)ns; }

#endif
