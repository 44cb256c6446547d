/* The usage region: memory shared by all processes of one container, created and read by the node agent. This layout is an ABI: a change
 * needs a new version. The table in ../README.md is the same in words. No pointers, no locks in memory: liveness is an OFD lock on
 * the first byte of a slot, which the kernel drops with its process. */
#ifndef MICA_REGION_H
#define MICA_REGION_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MICA_REGION_MAGIC "MICARGN1"
enum { MICA_REGION_VERSION = 1, MICA_GPUS = 16, MICA_SLOTS = 1024, MICA_REGION_BYTES = 335872 };
enum { MICA_SLOT_FREE = 0, MICA_SLOT_TAKEN = 1 };

/* used: low 48 bits bytes, upper 16 bits a tag that changes with every update, so that a recount can tell that nothing happened meanwhile. */
#define MICA_USED_MASK ((UINT64_C(1) << 48) - 1)
#define MICA_USED_TAG (UINT64_C(1) << 48)

struct mica_region_gpu {
    char uuid[48];
    _Atomic uint64_t limit;
    _Atomic uint32_t cores;
    uint32_t reserved0;
    _Atomic uint64_t used;
    _Atomic uint64_t denials;
    uint64_t reserved1[6];
    _Atomic int64_t balance;
    _Atomic uint64_t refilled_at;
    _Atomic int64_t inflight;
    uint64_t reserved2[5];
    _Atomic uint64_t busy;
    _Atomic uint64_t launches;
    _Atomic uint64_t throttled;
    uint64_t reserved3[5];
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
};

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
    uint64_t reserved0[26];
    struct mica_region_gpu gpus[MICA_GPUS];
    uint64_t reserved1[480];
    struct mica_region_slot slots[MICA_SLOTS];
};

_Static_assert(sizeof(struct mica_region_gpu) == 256, "gpu record");
_Static_assert(offsetof(struct mica_region_gpu, limit) == 48, "gpu.limit");
_Static_assert(offsetof(struct mica_region_gpu, cores) == 56, "gpu.cores");
_Static_assert(offsetof(struct mica_region_gpu, used) == 64, "gpu.used");
_Static_assert(offsetof(struct mica_region_gpu, denials) == 72, "gpu.denials");
_Static_assert(offsetof(struct mica_region_gpu, balance) == 128, "gpu.balance");
_Static_assert(offsetof(struct mica_region_gpu, refilled_at) == 136, "gpu.refilled_at");
_Static_assert(offsetof(struct mica_region_gpu, inflight) == 144, "gpu.inflight");
_Static_assert(offsetof(struct mica_region_gpu, busy) == 192, "gpu.busy");
_Static_assert(offsetof(struct mica_region_gpu, launches) == 200, "gpu.launches");
_Static_assert(offsetof(struct mica_region_gpu, throttled) == 208, "gpu.throttled");
_Static_assert(sizeof(struct mica_region_slot) == 320, "slot");
_Static_assert(offsetof(struct mica_region_slot, pid) == 4, "slot.pid");
_Static_assert(offsetof(struct mica_region_slot, started_at) == 8, "slot.started_at");
_Static_assert(offsetof(struct mica_region_slot, generation) == 16, "slot.generation");
_Static_assert(offsetof(struct mica_region_slot, pending) == 20, "slot.pending");
_Static_assert(offsetof(struct mica_region_slot, program) == 24, "slot.program");
_Static_assert(offsetof(struct mica_region_slot, used) == 64, "slot.used");
_Static_assert(offsetof(struct mica_region_slot, busy) == 192, "slot.busy");
_Static_assert(offsetof(struct mica_region, version) == 8, "version");
_Static_assert(offsetof(struct mica_region, gpu_count) == 28, "gpu_count");
_Static_assert(offsetof(struct mica_region, size) == 32, "size");
_Static_assert(offsetof(struct mica_region, generation) == 40, "generation");
_Static_assert(offsetof(struct mica_region, gpus) == 256, "gpus");
_Static_assert(offsetof(struct mica_region, slots) == 8192, "slots");
_Static_assert(sizeof(struct mica_region) == MICA_REGION_BYTES, "region");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "atomics are plain words");

#endif
