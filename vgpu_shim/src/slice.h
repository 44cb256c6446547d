/* This container's slice as the hooks see it: is there one, which GPU is which, how much of it. */
#ifndef MICA_SLICE_H
#define MICA_SLICE_H

#include "driver.h"
#include "ledger.h"

enum { MICA_GPU_NONE = -1, MICA_GPU_FOREIGN = -2 };

struct mica_slice {
    _Atomic uint64_t memory[MICA_GPUS]; /* bytes */
    _Atomic uint32_t cores[MICA_GPUS];
    _Atomic int enforce, oversubscribe;
    int device_count; /* those that can be limited */
    int beyond;       /* those that the driver has on top of them: nobody's */
    int gpu_of_device[MICA_GPUS]; /* index into the arrays above, or MICA_GPU_FOREIGN */
};
extern struct mica_slice mica_slice;
extern _Atomic int mica_slice_state; /* 1 when limits, region and devices are known */

/* Read limits before the driver starts: 0, or the error to give to the application. */
CUresult mica_slice_prepare(void);
/* Attach the region and map devices, after the driver started. */
CUresult mica_slice_start(void);
/* 0 when the slice is active; starts it when somebody initialised the driver past us. */
static inline CUresult mica_slice_check(void)
{
    return MICA_LIKELY(atomic_load_explicit(&mica_slice_state, memory_order_acquire) == 1) ? MICA_CUDA_SUCCESS : mica_slice_start();
}
/* Look for changed limits and dead processes, at most every 100 ms and 500 ms. */
void mica_slice_tick_slow(uint64_t now);
extern _Atomic uint64_t mica_next_tick;
static inline void mica_slice_tick(uint64_t now)
{
    if (MICA_UNLIKELY(now >= atomic_load_explicit(&mica_next_tick, memory_order_relaxed)))
        mica_slice_tick_slow(now);
}

/* The same for calls that do not need the time for anything else. */
extern _Atomic uint64_t mica_looked_at;
static inline void mica_slice_look(void)
{
    if (MICA_UNLIKELY(mica_due(&mica_looked_at)))
        mica_slice_tick(mica_now());
}

/* GPU of a CUDA device or of the current context: an index, MICA_GPU_NONE (no context) or MICA_GPU_FOREIGN (not ours to use). */
int mica_gpu_of_device(CUdevice device);
/* The same for a place that memory is asked for; MICA_GPU_NONE for host memory, and where only the driver has an error to give. */
int mica_gpu_of_location(const CUmemLocation *where);
int mica_gpu_current(void);
/* The GPU of a context that is current; what is known of it is forgotten when any context ends. */
int mica_gpu_of_context(CUcontext current);
void mica_contexts_forget(void);
/* Answer for a GPU that is not in the limits: the error, or 0 where limits are only reported. */
CUresult mica_slice_foreign(CUresult error);

#endif
