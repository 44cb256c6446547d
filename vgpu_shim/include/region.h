/* The usage region: memory shared by all processes of one container, created and read by the node agent. This layout is an ABI: a change
 * needs a new version. The table in ../README.md is the same in words. No pointers, no locks in memory: liveness is an OFD lock on
 * the first byte of a slot, which the kernel drops with its process. */
#ifndef MICA_REGION_H
#define MICA_REGION_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MICA_REGION_MAGIC "MICARGN1"
enum { MICA_REGION_VERSION = 2, MICA_GPUS = 16, MICA_SLOTS = 1024, MICA_REGION_BYTES = 1069056 };
enum { MICA_SLOT_FREE = 0, MICA_SLOT_TAKEN = 1 };
enum { MICA_POLICY_STRICT = 0, MICA_POLICY_CONSERVING = 1 };
enum { MICA_PRIORITY_NORMAL = 0, MICA_PRIORITY_HIGH = 1, MICA_PRIORITY_LOW = 2 };
enum { MICA_WEIGHT_DEFAULT = 100, MICA_WEIGHT_MAX = 10000 };

/* used: low 48 bits bytes, upper 16 bits a tag that changes with every update, so that a recount can tell that nothing happened meanwhile. */
#define MICA_USED_MASK ((UINT64_C(1) << 48) - 1)
#define MICA_USED_TAG (UINT64_C(1) << 48)

/* batches: low 16 bits their number, upper 16 bits a tag as above. */
#define MICA_BATCHES_MASK UINT32_C(0xffff)
#define MICA_BATCHES_TAG UINT32_C(0x10000)

struct mica_region_gpu {
    /* what the limits say */
    char uuid[48];
    _Atomic uint64_t limit;
    _Atomic uint32_t cores;
    _Atomic uint32_t weight;
    /* memory */
    _Atomic uint64_t used; /* everything that is charged: context + module + data */
    _Atomic uint64_t denials;
    _Atomic uint64_t context; /* of it: contexts */
    _Atomic uint64_t module;  /* of it: modules and libraries */
    _Atomic uint64_t learned_context; /* what a context takes on this card as measured last, 0 = unknown */
    _Atomic uint32_t oversubscribe;
    _Atomic uint32_t policy;
    _Atomic uint32_t priority;
    uint32_t reserved1;
    uint64_t reserved2;
    /* the container's own balance */
    _Atomic int64_t balance;
    _Atomic uint64_t refilled_at;
    _Atomic int64_t inflight;
    uint64_t reserved3[5];
    /* totals */
    _Atomic uint64_t busy;
    _Atomic uint64_t launches;
    _Atomic uint64_t throttled;
    uint64_t reserved4[5];
    /* the lease: read by the node's arbiter */
    _Atomic uint64_t waiting_at; /* a launch waited for the card at this time; refreshed every millisecond while one does */
    _Atomic uint64_t active_at;  /* work was sent to the card or known to run at this time */
    _Atomic uint32_t batches;    /* of launches that are not known to be over, with a change tag */
    uint32_t reserved5;
    _Atomic uint64_t watermark; /* end of the latest stretch of work that was charged */
    _Atomic uint64_t inflight_until; /* estimate of when what is in flight will be over */
    uint64_t reserved6[11];
    uint64_t reserved7[80];
};

struct mica_region_slot {
    _Atomic uint32_t state;
    _Atomic uint32_t pid;
    _Atomic uint64_t started_at;
    _Atomic uint32_t generation;
    _Atomic uint32_t pending;
    char program[16];
    uint64_t reserved[3];
    _Atomic uint64_t used[MICA_GPUS];
    _Atomic uint64_t busy[MICA_GPUS];
    _Atomic uint64_t context[MICA_GPUS];  /* of used: contexts */
    _Atomic uint64_t module[MICA_GPUS];   /* of used: modules and libraries */
    _Atomic int64_t inflight[MICA_GPUS];  /* this process's part of the GPU's */
    _Atomic uint64_t batches[MICA_GPUS];  /* this process's part of the GPU's */
    uint64_t reserved1[24];
};

/* Memory that a process of this container gave others a handle of: a hash of the handle, and who is charged for it (slot + 1 << 32 |
 * generation; 0: nobody any more). A ring: the oldest is forgotten, and what is opened then counts as another container's. */
struct mica_region_export {
    _Atomic uint64_t handle, owner;
};
enum { MICA_EXPORTS = 252 };

struct mica_region {
    _Atomic uint64_t magic; /* the bytes of MICA_REGION_MAGIC; stored last */
    uint32_t version;
    uint32_t gpu_max;
    uint32_t slot_max;
    uint32_t gpu_bytes;
    uint32_t slot_bytes;
    _Atomic uint32_t gpu_count;
    uint64_t size;
    _Atomic uint64_t generation;
    _Atomic uint64_t export_count;
    uint64_t reserved0;
    struct mica_region_export exports[MICA_EXPORTS];
    struct mica_region_gpu gpus[MICA_GPUS];
    struct mica_region_slot slots[MICA_SLOTS];
};

#define MICA_AT(type, field, at) _Static_assert(offsetof(struct type, field) == (at), #type "." #field)
_Static_assert(sizeof(struct mica_region_gpu) == 1024, "gpu record");
MICA_AT(mica_region_gpu, limit, 48);
MICA_AT(mica_region_gpu, cores, 56);
MICA_AT(mica_region_gpu, weight, 60);
MICA_AT(mica_region_gpu, used, 64);
MICA_AT(mica_region_gpu, denials, 72);
MICA_AT(mica_region_gpu, context, 80);
MICA_AT(mica_region_gpu, module, 88);
MICA_AT(mica_region_gpu, learned_context, 96);
MICA_AT(mica_region_gpu, oversubscribe, 104);
MICA_AT(mica_region_gpu, policy, 108);
MICA_AT(mica_region_gpu, priority, 112);
MICA_AT(mica_region_gpu, balance, 128);
MICA_AT(mica_region_gpu, refilled_at, 136);
MICA_AT(mica_region_gpu, inflight, 144);
MICA_AT(mica_region_gpu, busy, 192);
MICA_AT(mica_region_gpu, launches, 200);
MICA_AT(mica_region_gpu, throttled, 208);
MICA_AT(mica_region_gpu, waiting_at, 256);
MICA_AT(mica_region_gpu, active_at, 264);
MICA_AT(mica_region_gpu, batches, 272);
MICA_AT(mica_region_gpu, watermark, 280);
MICA_AT(mica_region_gpu, inflight_until, 288);
_Static_assert(sizeof(struct mica_region_slot) == 1024, "slot");
MICA_AT(mica_region_slot, pid, 4);
MICA_AT(mica_region_slot, started_at, 8);
MICA_AT(mica_region_slot, generation, 16);
MICA_AT(mica_region_slot, pending, 20);
MICA_AT(mica_region_slot, program, 24);
MICA_AT(mica_region_slot, used, 64);
MICA_AT(mica_region_slot, busy, 192);
MICA_AT(mica_region_slot, context, 320);
MICA_AT(mica_region_slot, module, 448);
MICA_AT(mica_region_slot, inflight, 576);
MICA_AT(mica_region_slot, batches, 704);
MICA_AT(mica_region, version, 8);
MICA_AT(mica_region, gpu_count, 28);
MICA_AT(mica_region, export_count, 48);
MICA_AT(mica_region, exports, 64);
MICA_AT(mica_region, size, 32);
MICA_AT(mica_region, generation, 40);
MICA_AT(mica_region, gpus, 4096);
MICA_AT(mica_region, slots, 20480);
_Static_assert(sizeof(struct mica_region) == MICA_REGION_BYTES, "region");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "atomics are plain words");
#undef MICA_AT

#endif
