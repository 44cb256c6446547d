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
    int contexts;           /* contexts alive in this process */
    int default_queue;      /* hardware queue of streams 0, 1 and 2; -1 before the first context */
    struct mica_pool *pool; /* default pool */
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
    uint64_t last; /* 1 + sequence number of the last operation, 0 = none */
    struct mica_stream *next;
};

struct mica_event {
    unsigned magic;
    unsigned flags;
    struct mica_ctx *ctx;
    int queue;         /* -1 = never recorded */
    uint64_t sequence; /* of the record operation */
    uint64_t stamp;    /* 0 until known */
};

struct mica_pool {
    unsigned magic;
    CUdevice device;
    bool is_default;
    uint64_t used, used_high, threshold;
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
uint64_t sim_round(uint64_t bytes);
/* Run the card of a device up to now. */
void sim_advance(struct sim_device *device);
/* Forget what a context owned (called with no lock held). */
void sim_memory_drop(const struct mica_ctx *ctx);
void sim_streams_drop(struct mica_ctx *ctx);
/* Wait until nothing of this process is queued on the card. */
CUresult sim_drain(struct sim_device *device);
/* The stream behind a handle of the current context; per_thread is the meaning of 0. */
CUresult sim_stream(CUstream handle, struct mica_stream **out);
/* Find the allocation that covers [pointer, pointer + bytes). */
bool sim_memory_covers(CUdeviceptr pointer, size_t bytes);
CUdeviceptr sim_address_take(uint64_t bytes, uint64_t align);
bool sim_vmm_covers(CUdeviceptr pointer, size_t bytes);

#endif
