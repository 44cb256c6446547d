/* The state file that all users of the simulated cards share: who holds how much memory, and what each hardware queue has still to run. */
#ifndef MICA_SIM_STATE_H
#define MICA_SIM_STATE_H

#include <stdbool.h>
#include <stdint.h>

enum { SIM_GPUS = 16, SIM_SLOTS = 256, SIM_QUEUES = 16, SIM_RING = 1024 };
enum { SIM_SLOT_FREE = 0, SIM_SLOT_LIVE = 1, SIM_SLOT_DEAD = 2 };
enum { SIM_OP_KERNEL = 1, SIM_OP_RECORD = 2, SIM_OP_WAIT = 3, SIM_OP_HOST = 4, SIM_OP_COPY = 5 };
enum { SIM_SHARED = 512, SIM_WORDS = SIM_SLOTS / 64 };

/* How the card shares its time. */
struct sim_timing {
    uint64_t slice_ns;
    uint64_t switch_ns;  /* idle time when another process gets the card */
    uint64_t inflation;  /* permille by which each further kernel that runs beside one slows both down */
    uint64_t sample_ns;  /* length of a utilisation sample */
};

/* One operation in a queue. value: nanoseconds left (kernel), nanoseconds it takes (copy), sequence number to wait for (wait, in queue `other`),
 * 1 when the host has done it (host). */
struct sim_op {
    uint32_t kind;
    uint32_t other;
    uint64_t value;
    uint64_t done_at;
};

/* A hardware queue; operations [head, tail) are not finished. head only rises. */
struct sim_queue {
    int32_t gpu; /* index into sim_state.gpus, -1 = unused */
    uint32_t reserved;
    uint64_t head;
    uint64_t tail;
    struct sim_op ops[SIM_RING];
};

struct sim_slot {
    uint32_t state;
    uint32_t pid;
    uint64_t pid_namespace;
    uint64_t bytes[SIM_GPUS];
    uint64_t busy_ns[SIM_GPUS];
    uint64_t kernels[SIM_GPUS];
    uint64_t overhead[SIM_GPUS]; /* part of bytes: contexts and modules */
    uint64_t work_ns[SIM_GPUS];  /* durations of the kernels that have run, as if each had had the card for itself */
    uint64_t window_busy[SIM_GPUS];
    uint32_t utilization[SIM_GPUS]; /* percent in the last sample */
};

/* Memory that more than one process may hold; it is freed when the last of them lets go or dies. */
struct sim_shared {
    uint64_t id; /* 0 = unused */
    uint64_t bytes;
    int32_t gpu;
    uint32_t offset_unit; /* spare */
    uint64_t holders[SIM_WORDS];
};

struct sim_gpu {
    char uuid[48];
    uint64_t time_ns; /* the card has been simulated up to here */
    uint64_t slice_end;
    int32_t current; /* slot whose slice it is, -1 = none */
    int32_t last;    /* slot that had the card before */
    uint64_t switch_end;
    uint64_t copies; /* copies that have begun */
    uint64_t busy_ns;
    uint64_t active[SIM_WORDS]; /* slots with operations in a queue of this card */
    uint64_t reaped_at;
    uint64_t window_at, window_busy; /* utilisation is sampled over windows */
    uint32_t utilization;            /* percent of the last whole window */
    uint32_t padding;
};

struct sim_state {
    char magic[8];
    uint32_t version;
    uint32_t slots_used; /* slots at or above were never taken */
    uint64_t size;
    uint32_t is_virtual; /* times are of a virtual clock */
    uint32_t reserved;
    uint64_t next_shared;
    struct sim_shared shared[SIM_SHARED];
    struct sim_gpu gpus[SIM_GPUS];
    struct sim_slot slots[SIM_SLOTS];
    struct sim_queue queues[SIM_SLOTS][SIM_QUEUES];
};

uint64_t sim_clock_ns(void);
/* True when this process's time is virtual. Then one thread of the group runs at a time and the locks below do nothing. */
bool sim_clock_virtual(void);
/* Charge the caller for a call, in virtual time; not with a lock held. */
void sim_clock_spend(uint64_t ns);
/* False when the state's time is not this process's kind of time: nothing but looking is possible. */
bool sim_state_same_clock(const struct sim_state *state);

/* Map the state, creating it when this is its first user. NULL when the directory cannot be used (says why on stderr). */
struct sim_state *sim_state_open(void);
/* Index of the card in the state, added when new; -1 when the table is full. */
int sim_state_gpu(struct sim_state *state, const char *uuid);
/* This process's slot, taken on first use; -1 when all are taken. */
int sim_state_slot(struct sim_state *state);
bool sim_state_slot_alive(struct sim_state *state, int slot);
/* Pid of a slot's process as this process would call it, 0 when it is in a namespace that cannot be seen. */
uint32_t sim_state_slot_pid(struct sim_state *state, int slot);
/* Everything below is called with the card locked. */
void sim_state_lock(int gpu);
void sim_state_unlock(int gpu);
void sim_state_reap(struct sim_state *state, int gpu, bool now);
uint64_t sim_state_used(struct sim_state *state, int gpu);
/* What NVML shows for a slot: its own bytes, and shared ones of which it is the first holder. */
uint64_t sim_state_bytes(struct sim_state *state, int gpu, int slot);
struct sim_shared *sim_shared_find(struct sim_state *state, uint64_t id);
/* Turn `bytes` of the slot into shared memory held by it; 0 when the table is full. */
uint64_t sim_shared_make(struct sim_state *state, int gpu, int slot, uint64_t bytes);
bool sim_shared_hold(struct sim_state *state, uint64_t id, int slot);
void sim_shared_drop(struct sim_state *state, uint64_t id, int slot);

/* sched.c: run the card up to now. */
void sim_sched_advance(struct sim_state *state, int gpu, const struct sim_timing *timing);
/* Go on behind operations that the host has done. */
void sim_sched_settle(struct sim_state *state, int gpu, int slot);
/* Append an operation to a queue that has room, after an advance; returns its sequence number. */
uint64_t sim_sched_push(struct sim_state *state, int gpu, int slot, int queue, struct sim_op op);

#endif
