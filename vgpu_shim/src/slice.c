/* See slice.h. Limits come from one place, decided once; a change of the file is taken over while the program runs. */
#include "slice.h"

#include <stdio.h>
#include <string.h>

#include "gate.h"
#include "helper.h"
#include "lease.h"
#include "imports.h"
#include "memory.h"
#include "overhead.h"

enum { TICK_NS = 100000000, REAP_NS = 500000000 };

struct mica_slice mica_slice;
_Atomic int mica_slice_state;
_Atomic uint64_t mica_next_tick, mica_looked_at;

/* GPUs of contexts seen lately: address of the context shifted by 8 and GPU + 2, in one word so that it is whole. */
enum { CONTEXTS = 16 };
static _Atomic uint64_t contexts[CONTEXTS];

static mica_lock lock;
static enum mica_source source;
static const char *limits_path;
static struct mica_limits limits; /* guarded by lock */
static struct stat limits_seen;
static bool prepared;
static uint64_t reaped_at;

/* In libc since 2.3.2, without libpthread. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);

/* Other threads of the parent may have held any lock, and are not here to release it. The child starts from nothing: no driver works in a
 * child of a process that used the GPU, and one whose parent had not can begin by itself. */
static void in_child(void)
{
    atomic_store(&lock, 0);
    atomic_store(&mica_slice_state, 0);
    atomic_store(&mica_next_tick, 0);
    mica_contexts_forget();
    prepared = false;
    mica_driver_forked();
    mica_ledger_forked();
    mica_memory_forked();
    mica_pools_forked();
    mica_arrays_forked();
    mica_graph_memory_forked();
    mica_imports_forked();
    mica_overhead_forked();
    mica_vmm_forked();
    mica_gate_forked();
    mica_helper_forked();
    mica_lease_forked();
}

void mica_slice_watch_forks(void)
{
    static atomic_flag watched = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&watched))
        __register_atfork(NULL, NULL, in_child, NULL);
}

static CUresult refuse(const char *why)
{
    MICA_LOG_ONCE("GPU refused: %s%s%s", limits_path ? limits_path : "", limits_path ? " " : "", why);
    return MICA_CUDA_NOT_PERMITTED;
}

static void tell_unknown(const struct mica_limits *fresh)
{
    if (fresh->have_unknown_key)
        MICA_LOG_ONCE("%s: unknown key %s is ignored", limits_path, fresh->unknown_key);
}

/* Called with the lock held. */
static CUresult prepare(void)
{
    char error[192] = "";
    if (prepared)
        return MICA_CUDA_SUCCESS;
    source = mica_limits_source(&limits_path);
    bool ok = source == MICA_SOURCE_FILE ? mica_limits_read(limits_path, &limits, &limits_seen, error, sizeof error)
                                         : mica_limits_from_env(&limits, error, sizeof error);
    if (!ok)
        return refuse(error);
    tell_unknown(&limits);
    prepared = true;
    return MICA_CUDA_SUCCESS;
}

CUresult mica_slice_prepare(void)
{
    mica_acquire(&lock);
    CUresult result = prepare();
    mica_release(&lock);
    return result;
}

static void uuid_text(const CUuuid *uuid, char out[48])
{
    const unsigned char *b = (const unsigned char *)uuid->bytes;
    snprintf(out, 48, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6],
             b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* A MIG device's CUDA UUID has the same bytes as its name, which starts with MIG-. */
static bool same_uuid(const char *limit, const char *device)
{
    const char *a = strchr(limit, '-'), *b = strchr(device, '-');
    return a && b && strcasecmp(a, b) == 0;
}

static void apply(const struct mica_limits *fresh)
{
    for (uint32_t g = 0; g < fresh->gpus; g++) {
        atomic_store(&mica_slice.memory[g], fresh->gpu[g].memory);
        atomic_store(&mica_slice.cores[g], fresh->gpu[g].cores);
        atomic_store(&mica_region->gpus[g].limit, fresh->gpu[g].memory);
        atomic_store(&mica_region->gpus[g].cores, fresh->gpu[g].cores);
        atomic_store(&mica_region->gpus[g].weight, fresh->gpu[g].weight);
        atomic_store(&mica_region->gpus[g].policy, fresh->gpu[g].policy);
        atomic_store(&mica_region->gpus[g].priority, fresh->gpu[g].priority);
        atomic_store(&mica_region->gpus[g].oversubscribe, fresh->oversubscribe);
        if (strncmp(mica_region->gpus[g].uuid, fresh->gpu[g].uuid, sizeof mica_region->gpus[g].uuid) != 0)
            snprintf(mica_region->gpus[g].uuid, sizeof mica_region->gpus[g].uuid, "%s", fresh->gpu[g].uuid);
    }
    atomic_store(&mica_slice.enforce, fresh->enforce);
    atomic_store(&mica_slice.oversubscribe, fresh->oversubscribe);
    atomic_store(&mica_meter_passes, 0);
    atomic_store(&mica_region->gpu_count, fresh->gpus);
    atomic_store(&mica_region->generation, fresh->generation);
}

static bool map_devices(void)
{
    int count = 0;
    char uuids[MICA_GPUS][48];
    if (!mica_real.cuDeviceGetCount || !mica_real.cuDeviceGetUuid || !mica_real.cuDeviceGet || mica_real.cuDeviceGetCount(&count))
        return false;
    mica_slice.device_count = count < MICA_GPUS ? count : MICA_GPUS;
    mica_slice.beyond = count - mica_slice.device_count;
    for (int d = 0; d < mica_slice.device_count; d++) {
        CUdevice device;
        CUuuid uuid;
        if (mica_real.cuDeviceGet(&device, d) || mica_real.cuDeviceGetUuid(&uuid, device))
            return false;
        uuid_text(&uuid, uuids[d]);
    }
    if (source == MICA_SOURCE_ENV) { /* one limit for every device */
        struct mica_limit each = limits.gpu[0];
        limits.gpus = (uint32_t)mica_slice.device_count;
        for (int d = 0; d < mica_slice.device_count; d++) {
            limits.gpu[d] = each;
            memcpy(limits.gpu[d].uuid, uuids[d], sizeof uuids[d]);
        }
    }
    for (int d = 0; d < mica_slice.device_count; d++) {
        mica_slice.gpu_of_device[d] = MICA_GPU_FOREIGN;
        for (uint32_t g = 0; g < limits.gpus; g++)
            if (same_uuid(limits.gpu[g].uuid, uuids[d]))
                mica_slice.gpu_of_device[d] = (int)g;
        if (mica_slice.gpu_of_device[d] == MICA_GPU_FOREIGN)
            mica_log("device %d (%s) is not in the limits: it cannot be used", d, uuids[d]);
    }
    if (mica_slice.beyond)
        mica_log("a slice has %d devices at most: those from number %d on cannot be used", MICA_GPUS, MICA_GPUS);
    return true;
}

/* Called with the lock held. */
static CUresult start(void)
{
    char error[512] = "";
    if (atomic_load(&mica_slice_state) == 1)
        return MICA_CUDA_SUCCESS;
    CUresult result = prepare();
    if (result)
        return result;
    if (!mica_ledger_attach(source, error, sizeof error)) {
        MICA_LOG_ONCE("GPU refused: %s", error);
        return MICA_CUDA_NOT_PERMITTED;
    }
    if (!map_devices())
        return MICA_CUDA_NOT_INITIALIZED; /* the driver was not started yet: try again later */
    apply(&limits);
    mica_lease_look(mica_now());
    atomic_store_explicit(&mica_slice_state, 1, memory_order_release);
    return MICA_CUDA_SUCCESS;
}

CUresult mica_slice_start(void)
{
    if (!mica_driver())
        return mica_driver_absent();
    mica_nvml_load();
    mica_acquire(&lock);
    CUresult result = start();
    mica_release(&lock);
    return result;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec
        && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* The GPUs of a running program cannot change, only how much of each. */
static bool same_gpus(const struct mica_limits *a, const struct mica_limits *b)
{
    bool same = a->gpus == b->gpus;
    for (uint32_t g = 0; same && g < a->gpus; g++)
        same = strcmp(a->gpu[g].uuid, b->gpu[g].uuid) == 0;
    return same;
}

static void reload(void)
{
    struct stat st, seen;
    struct mica_limits fresh;
    char error[192];
    if (source != MICA_SOURCE_FILE || stat(limits_path, &st) != 0 || same_file(&st, &limits_seen))
        return; /* a file that is gone keeps the limits we have */
    if (!mica_limits_read(limits_path, &fresh, &seen, error, sizeof error)) {
        MICA_LOG_ONCE("%s %s; the limits of generation %llu stay in force", limits_path, error, (unsigned long long)limits.generation);
        return; /* half written, perhaps: looked at again on the next tick */
    }
    limits_seen = seen;
    if (fresh.generation < limits.generation || !same_gpus(&fresh, &limits)) {
        mica_log("%s: generation %llu is older or names other GPUs; the limits of generation %llu stay in force", limits_path,
                 (unsigned long long)fresh.generation, (unsigned long long)limits.generation);
        return;
    }
    limits = fresh;
    tell_unknown(&fresh);
    apply(&fresh);
}

void mica_slice_tick_slow(uint64_t now)
{
    if (!mica_try(&lock))
        return;
    atomic_store_explicit(&mica_next_tick, now + TICK_NS, memory_order_relaxed);
    if (atomic_load(&mica_slice_state) == 1) {
        reload();
        mica_lease_look(now);
        if (now - reaped_at >= REAP_NS) {
            reaped_at = now;
            mica_ledger_reap();
            mica_imports_adopt();
        }
        mica_pools_settle();
        mica_overhead_tick(now);
    }
    mica_release(&lock);
}

int mica_gpu_of_device(CUdevice device)
{
    return device >= 0 && device < mica_slice.device_count ? mica_slice.gpu_of_device[device] : MICA_GPU_FOREIGN;
}

int mica_gpu_of_location(const CUmemLocation *where)
{
    CUdevice device = where->type == MICA_LOCATION_DEVICE ? where->id : where->type == MICA_LOCATION_DEVICE_PART ? where->id & 0xff : -1;
    return device >= 0 && device < mica_slice.device_count + mica_slice.beyond ? mica_gpu_of_device(device) : MICA_GPU_NONE;
}

int mica_gpu_current(void)
{
    CUdevice device;
    if (!mica_real.cuCtxGetDevice || mica_real.cuCtxGetDevice(&device))
        return MICA_GPU_NONE;
    return mica_gpu_of_device(device);
}

int mica_gpu_of_context(CUcontext current)
{
    _Atomic uint64_t *place = &contexts[((uintptr_t)current >> 4 ^ (uintptr_t)current >> 12) % CONTEXTS];
    const uint64_t known = atomic_load_explicit(place, memory_order_relaxed), shifted = (uint64_t)(uintptr_t)current << 8;
    CUdevice device;
    if (MICA_LIKELY((known ^ shifted) < 256))
        return (int)(known & 255) - 2;
    if (!mica_real.cuCtxGetDevice || mica_real.cuCtxGetDevice(&device))
        return MICA_GPU_NONE;
    int gpu = mica_gpu_of_device(device);
    atomic_store_explicit(place, shifted | (uint64_t)(gpu + 2), memory_order_relaxed);
    return gpu;
}

void mica_contexts_forget(void)
{
    for (int i = 0; i < CONTEXTS; i++)
        atomic_store_explicit(&contexts[i], 0, memory_order_relaxed);
}

CUresult mica_slice_foreign(CUresult error)
{
    if (atomic_load_explicit(&mica_slice.enforce, memory_order_relaxed))
        return error;
    MICA_LOG_ONCE("a GPU that is not in the limits is used (mode=report: allowed)");
    return MICA_CUDA_SUCCESS;
}
