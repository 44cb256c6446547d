/* What NVML tells of the processes on a card: their memory and their part of the time. All forms of the structures. */
#include "nvml.h"

#include <string.h>

enum { FORM_SHORT, FORM_LONG };

/* A process with a context is on the card, even if these cards' contexts take nothing. */
static bool has_context(const struct nvml_device *device, uint32_t slot)
{
    bool found = false;
    for (int q = 0; q < SIM_QUEUES && !found; q++)
        found = nvml.state->queues[slot][q].gpu == device->gpu;
    return found;
}

static nvmlReturn_t running(nvmlDevice_t device, unsigned *count, void *list, int form)
{
    nvmlReturn_t result = count ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    unsigned room = list ? *count : 0, found = 0;
    sim_state_lock(device->gpu);
    for (uint32_t s = 0; s < nvml.state->slots_used && s < SIM_SLOTS; s++) {
        uint64_t bytes = sim_state_bytes(nvml.state, device->gpu, (int)s);
        if ((!bytes && !has_context(device, s)) || !sim_state_slot_alive(nvml.state, (int)s))
            continue;
        const nvmlProcessInfo_t info = {
            .pid = sim_state_slot_pid(nvml.state, (int)s), .bytes = bytes, .gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
        if (found < room && form == FORM_LONG)
            ((nvmlProcessInfo_t *)list)[found] = info;
        else if (found < room)
            ((nvmlProcessInfo_v1_t *)list)[found] = (nvmlProcessInfo_v1_t){.pid = info.pid, .bytes = bytes};
        found++;
    }
    sim_state_unlock(device->gpu);
    *count = found;
    return found > room ? NVML_TOO_SMALL : NVML_OK;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *list)
{
    return running(device, count, list, FORM_SHORT);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *list)
{
    return running(device, count, list, FORM_LONG);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *list)
{
    return running(device, count, list, FORM_LONG);
}

/* No graphics and no MPS on these cards. */
static nvmlReturn_t none(nvmlDevice_t device, unsigned *count)
{
    nvmlReturn_t result = count ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *count = 0;
    return result;
}

#define NONE(name, type) \
    nvmlReturn_t name(nvmlDevice_t device, unsigned *count, type *list) \
    { \
        (void)list; \
        return none(device, count); \
    }
NONE(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NONE(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_t)
NONE(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NONE(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NONE(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_t)
NONE(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
    nvmlProcessInfo_t found[SIM_SLOTS];
    unsigned count = SIM_SLOTS;
    nvmlReturn_t result = list ? running(device, &count, found, FORM_LONG) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    unsigned room = list->list ? list->count : 0;
    list->count = list->mode == 0 ? count : 0; /* 0 = compute */
    for (unsigned i = 0; i < list->count && i < room; i++)
        list->list[i] = (nvmlProcessDetail_t){.pid = found[i].pid, .bytes = found[i].bytes, .gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
    return list->count > room ? NVML_TOO_SMALL : NVML_OK;
}

struct sample { unsigned pid, percent; };

/* The samples of processes that were busy in the last window, if that ended after `seen` (microseconds). */
static nvmlReturn_t samples(nvmlDevice_t device, unsigned long long seen, struct sample *out, unsigned *count, unsigned long long *at)
{
    nvmlReturn_t result = nvml_check(device);
    if (result)
        return result;
    *count = 0;
    sim_state_lock(device->gpu);
    sim_sched_advance(nvml.state, device->gpu, &nvml.config.timing);
    *at = nvml.state->gpus[device->gpu].window_at / 1000;
    for (uint32_t s = 0; s < nvml.state->slots_used && s < SIM_SLOTS && *at > seen; s++)
        if (nvml.state->slots[s].utilization[device->gpu] && sim_state_slot_alive(nvml.state, (int)s))
            out[(*count)++] = (struct sample){sim_state_slot_pid(nvml.state, (int)s), nvml.state->slots[s].utilization[device->gpu]};
    sim_state_unlock(device->gpu);
    return *count ? NVML_OK : NVML_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessSample_t *list, unsigned *count, unsigned long long seen)
{
    struct sample found[SIM_SLOTS];
    unsigned number = 0;
    unsigned long long at;
    nvmlReturn_t result = count ? samples(device, seen, found, &number, &at) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    unsigned room = list ? *count : 0;
    *count = number;
    for (unsigned i = 0; i < number && i < room; i++)
        list[i] = (nvmlProcessSample_t){.pid = found[i].pid, .time_us = at, .sm = found[i].percent};
    return number > room ? NVML_TOO_SMALL : NVML_OK;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesInfo_t *info)
{
    struct sample found[SIM_SLOTS];
    unsigned number = 0;
    unsigned long long at;
    nvmlReturn_t result = info ? samples(device, info->seen_us, found, &number, &at) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    unsigned room = info->list ? info->count : 0;
    info->count = number;
    for (unsigned i = 0; i < number && i < room; i++)
        info->list[i] = (nvmlProcessesSample_t){.pid = found[i].pid, .time_us = at, .sm = found[i].percent};
    return number > room ? NVML_TOO_SMALL : NVML_OK;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlMemory_t *bar)
{
    nvmlReturn_t result = bar ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    const unsigned long long total = UINT64_C(128) << 30;
    *bar = (nvmlMemory_t){.total = total, .free = total}; /* total, free, used, as in the memory structure */
    return NVML_OK;
}
