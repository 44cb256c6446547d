/* What the parts of the simulated driver share inside one process. */
#ifndef MICA_SIM_H
#define MICA_SIM_H

#include <pthread.h>
#include <stdbool.h>

#include "../include/cuda_min.h"
#include "config.h"
#include "state.h"

struct sim_device {
    const struct sim_card *card;
    int gpu; /* index in the state */
    struct mica_ctx *primary;
    int retained;
    int contexts;      /* contexts alive in this process */
    int default_queue; /* hardware queue of the legacy default stream; -1 before the first context */
    struct mica_pool *pool;    /* default pool */
    struct mica_pool *current; /* pool of cuMemAllocAsync; NULL: the default one */
    uint64_t graph_used, graph_used_high, graph_reserved, graph_reserved_high;
};

struct sim_driver {
    bool ready;
    int pid;
    struct sim_config config;
    struct sim_state *state;
    int slot;
    struct sim_device devices[SIM_GPUS];
    pthread_mutex_t mutex; /* everything in this process but the state */
};

struct mica_ctx {
    unsigned magic;
    CUdevice device;
    bool primary;
    struct mica_ctx *next;
};

struct mica_stream {
    unsigned magic;
    struct mica_ctx *ctx;
    int queue;
    _Atomic uint64_t last; /* 1 + sequence number of the last operation, 0 = none */
    bool non_blocking; /* knows nothing of the legacy default stream */
    bool legacy;
    _Atomic uint64_t awaited; /* of the legacy stream (in it: see stream.c), `last` that operations here wait for already */
    struct sim_capture *_Atomic capture;
    struct mica_node **tips; /* while captured: the nodes that the next one follows */
    size_t tip_count;
    struct mica_stream *next;
};

struct mica_event {
    unsigned magic;
    unsigned flags;
    struct mica_ctx *ctx;
    int queue;         /* -1 = never recorded */
    uint64_t sequence; /* of the record operation */
    uint64_t stamp;    /* 0 until known */
    struct sim_capture *capture; /* recorded in this capture, and where */
    uint64_t capture_id;
    struct mica_node **tips;
    size_t tip_count;
};

struct mica_pool {
    unsigned magic;
    CUdevice device;
    bool is_default, closing;
    uint64_t used, used_high, reserved, reserved_high, threshold, max;
    struct mica_pool *next;
};

/* What is asked of a stream or a graph node. */
enum sim_task_kind { SIM_TASK_EMPTY, SIM_TASK_KERNEL, SIM_TASK_COPY, SIM_TASK_HOST, SIM_TASK_ALLOC, SIM_TASK_FREE, SIM_TASK_CHILD, SIM_TASK_FILL };
struct sim_task {
    enum sim_task_kind kind;
    const struct mica_function *function;
    uint64_t arguments[3];
    uint64_t ns; /* of a copy or fill */
    CUhostFn run;
    void *user;
    CUdeviceptr pointer;
    uint64_t bytes;
    CUdevice device; /* of an allocation */
    CUgraph child;
};

extern struct sim_driver sim;
extern __thread struct mica_ctx *sim_stack[8];
extern __thread int sim_depth;

/* 0 or the CUDA error for "cuInit was not called (in this process)". */
CUresult sim_check(void);
/* Current context, or an error. */
CUresult sim_current(struct mica_ctx **ctx);
CUresult sim_device(CUdevice device, struct sim_device **out);
struct sim_device *sim_device_of(const struct mica_ctx *ctx);
/* Take (bytes > 0) or give back memory of a card, exact; OUT_OF_MEMORY when it does not fit. */
CUresult sim_take(struct sim_device *device, uint64_t bytes);
void sim_give(struct sim_device *device, uint64_t bytes);
/* The same for contexts and modules. */
CUresult sim_take_overhead(struct sim_device *device, uint64_t bytes);
void sim_give_overhead(struct sim_device *device, uint64_t bytes);
uint64_t sim_round(uint64_t bytes);
uint64_t sim_round_to(uint64_t bytes, uint64_t unit);
/* Run the card of a device up to now. */
void sim_advance(struct sim_device *device);
/* Forget what a context owned (called with no lock held). */
void sim_memory_drop(const struct mica_ctx *ctx);
void sim_streams_drop(struct mica_ctx *ctx);
/* Wait until nothing of this process is queued on the card. */
CUresult sim_drain(struct sim_device *device);
/* The stream behind a handle of the current context. */
CUresult sim_stream(CUstream handle, struct mica_stream **out);
/* Find the allocation that covers [pointer, pointer + bytes). */
bool sim_memory_covers(CUdeviceptr pointer, size_t bytes);
CUdeviceptr sim_address_take(uint64_t bytes, uint64_t align);
bool sim_vmm_covers(CUdeviceptr pointer, size_t bytes);

/* memory.c: allocations with an address. owner: a context, or NULL for what lives as long as the process. */
struct sim_block {
    CUdeviceptr at;
    uint64_t bytes, taken; /* address range; what of it is on the card as the process's own */
    struct mica_ctx *ctx;
    struct mica_pool *pool;
    struct sim_device *device;
    uint64_t shared; /* id, when other processes may hold it too */
    bool imported;
    unsigned opened_again;
};
CUresult sim_block_add(CUdeviceptr *pointer, struct sim_block block);
/* Remove the block that begins at the pointer; false when there is none. */
bool sim_block_remove(CUdeviceptr pointer, struct sim_block *out);
/* The block of a context that has that shared memory open, with sim.mutex held; NULL when there is none. */
struct sim_block *sim_block_importing(const struct mica_ctx *ctx, uint64_t shared);
/* The block that covers a pointer, with sim.mutex held; NULL when there is none. */
struct sim_block *sim_block_at(CUdeviceptr pointer);
/* Remove all blocks of a context or (ctx NULL) pool; returns what they took. */
CUresult sim_release(CUdeviceptr pointer);
void sim_block_done(const struct sim_block *block);

/* pool.c */
CUresult sim_pool_allocate(CUdeviceptr *pointer, size_t bytes, struct mica_pool *pool);
void sim_pool_return(struct mica_pool *pool, uint64_t bytes);
/* The host has waited for the device: pools give back what they hold beyond their thresholds. */
void sim_pools_settle(const struct sim_device *device);

/* launch.c: duration of a kernel, drawn anew for each launch. */
uint64_t sim_kernel_ns(const struct sim_task *task);
CUresult sim_kernel_task(const CUkernelNodeParams *params, struct sim_task *task);

/* capture.c: 0 when the call may be made now, else the error (and the captures it breaks are invalid). */
CUresult sim_unsafe_call(void);
/* Error for using the legacy stream while a blocking stream is captured. */
CUresult sim_capture_implicit(const struct mica_ctx *ctx, bool invalidate);
CUresult sim_capture_add(struct mica_stream *stream, const struct sim_task *task);
CUresult sim_capture_alloc(struct mica_stream *stream, size_t bytes, CUdeviceptr *pointer);
CUresult sim_capture_event(struct mica_stream *stream, CUevent event);
CUresult sim_capture_wait(struct mica_stream *stream, CUevent event);
/* The capture that the stream, or the event, is part of becomes invalid; false when there is none, or it is over. */
bool sim_capture_break(const struct mica_stream *stream);
bool sim_capture_break_event(const struct mica_event *event);
/* Those of the context's device; false when there are none. */
bool sim_capture_break_all(const struct mica_ctx *ctx);

/* graph.c */
CUresult sim_graph_add(CUgraph graph, CUgraphNode *node, const CUgraphNode *after, size_t count, const struct sim_task *task);
CUgraph sim_graph_new(void);
CUdeviceptr sim_graph_pointer(uint64_t bytes);
/* graph_memory.c */
bool sim_graph_memory_free(CUdeviceptr pointer);
bool sim_graph_memory_covers(CUdeviceptr pointer, size_t bytes);
CUresult sim_graph_memory_begin(struct sim_device *device, uint64_t peak);
void sim_graph_memory_live(struct sim_device *device, CUdeviceptr pointer, uint64_t bytes);

#endif
