/* Processes of the container, by the process ids it knows them by. All forms of the structures. */
#include "front.h"

#include <string.h>
#include <time.h>

#pragma GCC visibility push(default)

enum form { FORM_V1, FORM_V2, FORM_DETAIL };

/* The next slot from *slot on whose process uses the card; NULL after the last. */
static const struct mica_region_slot *next_process(const struct mica_share *share, unsigned *slot)
{
    const struct mica_region *region = share->gpu < 0 ? NULL : mica_nvml_region();
    for (; region && *slot < MICA_SLOTS; ++*slot) {
        const struct mica_region_slot *at = &region->slots[*slot];
        bool used = atomic_load(&at->used[share->gpu]) || atomic_load(&at->busy[share->gpu]);
        if (used && atomic_load(&at->state) == MICA_SLOT_TAKEN && mica_nvml_slot_alive(*slot)) {
            ++*slot;
            return at;
        }
    }
    return NULL;
}

static void put(void *list, unsigned at, enum form form, const nvmlProcessInfo_t *info)
{
    if (form == FORM_V1)
        ((nvmlProcessInfo_v1_t *)list)[at] = (nvmlProcessInfo_v1_t){info->pid, info->bytes};
    else if (form == FORM_V2)
        ((nvmlProcessInfo_t *)list)[at] = *info;
    else
        ((nvmlProcessDetail_t *)list)[at] = (nvmlProcessDetail_t){info->pid, info->bytes, info->gpu_instance, info->compute_instance, 0};
}

/* Fill up to `room` entries; how many there are. */
static unsigned fill(const struct mica_share *share, void *list, unsigned room, enum form form)
{
    unsigned found = 0, slot = 0;
    for (const struct mica_region_slot *at; (at = next_process(share, &slot)); found++) {
        const nvmlProcessInfo_t info = {.pid = atomic_load(&at->pid), .bytes = atomic_load(&at->used[share->gpu]) & MICA_USED_MASK,
                                        .gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
        if (found < room)
            put(list, found, form, &info);
    }
    return found;
}

/* The processes of the card, or with none: none, because slices do no graphics and have no MPS. */
static nvmlReturn_t list_processes(nvmlDevice_t device, unsigned *count, void *list, enum form form, bool none, const char *name)
{
    struct mica_share share;
    nvmlReturn_t result = count ? mica_nvml_share(device, &share) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    if (share.kind == MICA_SHARE_ALL) {
        nvmlReturn_t (*real)(nvmlDevice_t, unsigned *, void *) = (nvmlReturn_t(*)(nvmlDevice_t, unsigned *, void *))mica_nvml_real(name);
        return real ? real(device, count, list) : mica_nvml_absent();
    }
    unsigned room = list ? *count : 0;
    *count = none || share.kind == MICA_SHARE_NONE ? 0 : fill(&share, list, room, form);
    return *count > room ? NVML_TOO_SMALL : NVML_OK;
}

#define LIST(name, form, none) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *list); \
    nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *list) \
    { \
        return list_processes(device, count, list, form, none, #name); \
    }
LIST(nvmlDeviceGetComputeRunningProcesses, FORM_V1, false)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, FORM_V2, false)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, FORM_V2, false)
LIST(nvmlDeviceGetGraphicsRunningProcesses, FORM_V1, true)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, FORM_V2, true)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, FORM_V2, true)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, FORM_V1, true)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, FORM_V2, true)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, FORM_V2, true)

#define REAL(name, ...) \
    ({ \
        __typeof__(&name) real_##name = (__typeof__(&name))mica_nvml_real(#name); \
        real_##name ? real_##name(__VA_ARGS__) : mica_nvml_absent(); \
    })

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list);
nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
    struct mica_share share;
    nvmlReturn_t result = list ? mica_nvml_share(device, &share) : NVML_BAD_ARGUMENT;
    if (result || share.kind == MICA_SHARE_ALL)
        return result ? result : REAL(nvmlDeviceGetRunningProcessDetailList, device, list);
    enum { COMPUTE };
    unsigned room = list->list ? list->count : 0;
    list->count = list->mode != COMPUTE || share.kind == MICA_SHARE_NONE ? 0 : fill(&share, list->list, room, FORM_DETAIL);
    return list->count > room ? NVML_TOO_SMALL : NVML_OK;
}

static unsigned long long clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (unsigned long long)ts.tv_sec * 1000000 + (unsigned long long)ts.tv_nsec / 1000;
}

/* One process that was busy of late. */
struct sample { unsigned pid, percent; };

static unsigned samples(const struct mica_share *share, struct sample *out)
{
    unsigned found = 0, slot = 0;
    for (const struct mica_region_slot *at; (at = next_process(share, &slot));) {
        unsigned percent = mica_nvml_busy(share->gpu, (int)slot - 1);
        if (percent)
            out[found++] = (struct sample){atomic_load(&at->pid), percent};
    }
    return found;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessSample_t *list, unsigned *count, unsigned long long seen);
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessSample_t *list, unsigned *count, unsigned long long seen)
{
    struct mica_share share;
    struct sample found[MICA_SLOTS];
    nvmlReturn_t result = count ? mica_nvml_share(device, &share) : NVML_BAD_ARGUMENT;
    if (result || share.kind == MICA_SHARE_ALL)
        return result ? result : REAL(nvmlDeviceGetProcessUtilization, device, list, count, seen);
    unsigned room = list ? *count : 0, number = samples(&share, found);
    const unsigned long long now = clock_us();
    *count = now > seen ? number : 0;
    for (unsigned i = 0; i < *count && i < room; i++)
        list[i] = (nvmlProcessSample_t){.pid = found[i].pid, .time_us = now, .sm = found[i].percent};
    return !*count ? NVML_NOT_FOUND : *count > room ? NVML_TOO_SMALL : NVML_OK;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesInfo_t *info);
nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesInfo_t *info)
{
    struct mica_share share;
    struct sample found[MICA_SLOTS];
    nvmlReturn_t result = info ? mica_nvml_share(device, &share) : NVML_BAD_ARGUMENT;
    if (result || share.kind == MICA_SHARE_ALL)
        return result ? result : REAL(nvmlDeviceGetProcessesUtilizationInfo, device, info);
    unsigned room = info->list ? info->count : 0, number = samples(&share, found);
    const unsigned long long now = clock_us();
    info->count = now > info->seen_us ? number : 0;
    for (unsigned i = 0; i < info->count && i < room; i++)
        info->list[i] = (nvmlProcessesSample_t){.pid = found[i].pid, .time_us = now, .sm = found[i].percent};
    return !info->count ? NVML_NOT_FOUND : info->count > room ? NVML_TOO_SMALL : NVML_OK;
}

/* The driver's accounts are of every process that ever used the card. */
static nvmlReturn_t hidden(nvmlDevice_t device, nvmlReturn_t error)
{
    struct mica_share share;
    nvmlReturn_t result = mica_nvml_share(device, &share);
    return result || share.kind == MICA_SHARE_ALL ? result : error;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned *count, unsigned *pids);
nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned *count, unsigned *pids)
{
    nvmlReturn_t result = hidden(device, NVML_NOT_SUPPORTED);
    return result ? result : REAL(nvmlDeviceGetAccountingPids, device, count, pids);
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned pid, void *stats);
nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned pid, void *stats)
{
    nvmlReturn_t result = hidden(device, NVML_NOT_FOUND);
    return result ? result : REAL(nvmlDeviceGetAccountingStats, device, pid, stats);
}

nvmlReturn_t nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, void *stats);
nvmlReturn_t nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, void *stats)
{
    nvmlReturn_t result = hidden(device, NVML_NOT_FOUND);
    return result ? result : REAL(nvmlDeviceGetAccountingStats_v2, device, stats);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length);
nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    const struct mica_region *region = mica_nvml_region();
    for (unsigned s = 0; region && name && length && s < MICA_SLOTS; s++) {
        const struct mica_region_slot *at = &region->slots[s];
        if (atomic_load(&at->state) != MICA_SLOT_TAKEN || atomic_load(&at->pid) != pid || !mica_nvml_slot_alive(s))
            continue;
        char program[sizeof at->program + 1] = "";
        memcpy(program, at->program, sizeof at->program);
        size_t used = strlen(program) < length - 1 ? strlen(program) : length - 1;
        memcpy(name, program, used);
        name[used] = '\0';
        return NVML_OK;
    }
    return REAL(nvmlSystemGetProcessName, pid, name, length);
}
