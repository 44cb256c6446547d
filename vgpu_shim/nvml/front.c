/* NVML as a container sees it: its slice looks like a smaller card, with its own processes only. */
#include "front.h"

#include <string.h>
#include <time.h>

#pragma GCC visibility push(default)

/* Call the real function of the same name. */
#define REAL(name, ...) \
    ({ \
        __typeof__(&name) real_##name = (__typeof__(&name))mica_nvml_real(#name); \
        real_##name ? real_##name(__VA_ARGS__) : mica_nvml_absent(); \
    })

nvmlReturn_t nvmlInit_v2(void);
nvmlReturn_t nvmlInit(void);
nvmlReturn_t nvmlInitWithFlags(unsigned flags);

nvmlReturn_t nvmlInit_v2(void)
{
    mica_nvml_watch();
    return REAL(nvmlInit_v2);
}

nvmlReturn_t nvmlInit(void)
{
    mica_nvml_watch();
    return REAL(nvmlInit);
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    mica_nvml_watch();
    return REAL(nvmlInitWithFlags, flags);
}

/* Memory as the slice has it; total comes in as the card's. */
static void shrink(const struct mica_share *share, unsigned long long *total, unsigned long long *used, unsigned long long *left)
{
    const unsigned long long charged = mica_nvml_used(share);
    *total = share->limit < *total ? share->limit : *total;
    *used = charged < *total ? charged : *total;
    *left = *total - *used;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct mica_share share;
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo, device, memory);
    if (!result)
        result = mica_nvml_share(device, &share);
    if (result || share.kind == MICA_SHARE_ALL)
        return result;
    shrink(&share, &memory->total, &memory->used, &memory->free);
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory);
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct mica_share share;
    nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo_v2, device, memory);
    if (!result)
        result = mica_nvml_share(device, &share);
    if (result || share.kind == MICA_SHARE_ALL)
        return result;
    shrink(&share, &memory->total, &memory->used, &memory->free);
    memory->reserved = 0;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory);
nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlReturn_t result = REAL(nvmlDeviceGetConfComputeProtectedMemoryUsage, device, memory);
    return result ? result : nvmlDeviceGetMemoryInfo(device, memory);
}

/* 0 where the driver may decide, else the error: what would change the card for others. */
static nvmlReturn_t may_change(nvmlDevice_t device)
{
    struct mica_share share;
    nvmlReturn_t result = mica_nvml_share(device, &share);
    return result || share.kind == MICA_SHARE_ALL ? result : NVML_NO_PERMISSION;
}

nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, void *limits);
nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, void *limits)
{
    nvmlReturn_t result = may_change(device);
    return result ? result : REAL(nvmlDeviceSetMemoryLimits_v1, device, limits);
}

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, int mode);
nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, int mode)
{
    nvmlReturn_t result = may_change(device);
    return result ? result : REAL(nvmlDeviceSetComputeMode, device, mode);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates);
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    struct mica_share share;
    nvmlReturn_t result = REAL(nvmlDeviceGetUtilizationRates, device, rates);
    if (!result)
        result = mica_nvml_share(device, &share);
    if (result || share.kind == MICA_SHARE_ALL)
        return result;
    rates->gpu = mica_nvml_busy(share.gpu, -1);
    rates->memory = rates->memory < rates->gpu ? rates->memory : rates->gpu; /* the part of the time that memory was used in is not known */
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, nvmlPstatesInfo_t *info);
nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, nvmlPstatesInfo_t *info)
{
    enum { GPU, MEMORY };
    struct mica_share share;
    nvmlReturn_t result = REAL(nvmlDeviceGetDynamicPstatesInfo, device, info);
    if (!result)
        result = mica_nvml_share(device, &share);
    if (result || share.kind == MICA_SHARE_ALL)
        return result;
    info->domains[GPU].percent = mica_nvml_busy(share.gpu, -1);
    if (info->domains[MEMORY].percent > info->domains[GPU].percent)
        info->domains[MEMORY].percent = info->domains[GPU].percent;
    return NVML_OK;
}

/* A history of the whole card's utilisation; other kinds of samples are clocks and power. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, unsigned long long seen, int *value_type, unsigned *count, void *samples);
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, unsigned long long seen, int *value_type, unsigned *count, void *samples)
{
    enum { GPU_UTILIZATION = 1, MEMORY_UTILIZATION = 2 };
    nvmlReturn_t result = type == GPU_UTILIZATION || type == MEMORY_UTILIZATION ? may_change(device) : NVML_OK;
    return result == NVML_NO_PERMISSION ? NVML_NOT_SUPPORTED : result ? result : REAL(nvmlDeviceGetSamples, device, type, seen, value_type, count, samples);
}
