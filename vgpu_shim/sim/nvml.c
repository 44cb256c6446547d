/* The simulated cards as NVML shows them: identity, memory, utilisation, processes. */
#include "nvml.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct nvml_driver nvml;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static nvmlReturn_t start(void)
{
    char error[768];
    if (nvml.users++ > 0)
        return NVML_OK;
    nvmlReturn_t result = NVML_OK;
    if (!sim_config_read(&nvml.config, error, sizeof error)) {
        fprintf(stderr, "mica-sim: %s\n", error);
        result = NVML_NO_DRIVER;
    } else if (!(nvml.state = sim_state_open())) {
        result = NVML_UNKNOWN;
    } else if (!sim_state_same_clock(nvml.state)) {
        fprintf(stderr, "mica-sim: the cards run on another kind of time than this process\n");
        result = NVML_UNKNOWN;
    }
    for (int i = 0; result == NVML_OK && i < nvml.config.count; i++) {
        struct nvml_device *device = &nvml.devices[i];
        *device = (struct nvml_device){.card = nvml.config.cards[i], .index = (unsigned)i};
        device->gpu = sim_state_gpu(nvml.state, device->card.uuid);
        if (device->gpu < 0)
            result = NVML_UNKNOWN;
    }
    if (result)
        nvml.users = 0;
    return result;
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags; /* they only relax what happens with no cards or no attach */
    pthread_mutex_lock(&mutex);
    nvmlReturn_t result = start();
    pthread_mutex_unlock(&mutex);
    return result;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&mutex);
    nvmlReturn_t result = nvml.users > 0 ? NVML_OK : NVML_UNINITIALIZED;
    if (nvml.users > 0)
        nvml.users--; /* the state stays mapped: closing its descriptor would drop this process's own locks */
    pthread_mutex_unlock(&mutex);
    return result;
}

const char *nvmlErrorString(nvmlReturn_t code)
{
    switch (code) {
    case NVML_OK: return "Success";
    case NVML_UNINITIALIZED: return "Uninitialized";
    case NVML_BAD_ARGUMENT: return "Invalid Argument";
    case NVML_NOT_SUPPORTED: return "Not Supported";
    case NVML_NOT_FOUND: return "Not Found";
    case NVML_TOO_SMALL: return "Insufficient Size";
    case NVML_NO_DRIVER: return "Driver Not Loaded";
    case NVML_TIMEOUT: return "Timeout";
    case NVML_GPU_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvml_known(nvmlDevice_t device)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    bool inside = device >= &nvml.devices[0] && device < &nvml.devices[nvml.config.count];
    return inside ? NVML_OK : NVML_BAD_ARGUMENT;
}

nvmlReturn_t nvml_check(nvmlDevice_t device)
{
    nvmlReturn_t result = nvml_known(device);
    if (!result && sim_config_health(device->card.uuid) == 79)
        result = NVML_GPU_LOST;
    return result;
}

static nvmlReturn_t answer(char *text, unsigned length, const char *value)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!text)
        return NVML_BAD_ARGUMENT;
    if (strlen(value) >= length)
        return NVML_TOO_SMALL;
    memcpy(text, value, strlen(value) + 1);
    return NVML_OK;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    return answer(text, length, nvml.config.driver);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned length)
{
    char version[48];
    snprintf(version, sizeof version, "%d.%s", nvml.config.cuda / 1000, nvml.config.driver);
    return answer(text, length, version);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!version)
        return NVML_BAD_ARGUMENT;
    *version = nvml.config.cuda;
    return NVML_OK;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!count)
        return NVML_BAD_ARGUMENT;
    *count = (unsigned)nvml.config.count;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned *count)
{
    return nvmlDeviceGetCount_v2(count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!device || index >= (unsigned)nvml.config.count)
        return NVML_BAD_ARGUMENT;
    *device = &nvml.devices[index];
    return nvml_check(*device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!uuid || !device)
        return NVML_BAD_ARGUMENT;
    for (int i = 0; i < nvml.config.count; i++)
        if (strcmp(nvml.devices[i].card.uuid, uuid) == 0)
            return nvmlDeviceGetHandleByIndex_v2((unsigned)i, device);
    return NVML_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!id || !device)
        return NVML_BAD_ARGUMENT;
    for (int i = 0; i < nvml.config.count; i++) {
        const char *pci = nvml.devices[i].card.pci;
        size_t tail = strlen(id) <= strlen(pci) ? strlen(pci) - strlen(id) : 0;
        if (strlen(id) >= 7 && strcasecmp(pci + tail, id) == 0)
            return nvmlDeviceGetHandleByIndex_v2((unsigned)i, device);
    }
    return NVML_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned length)
{
    nvmlReturn_t result = nvml_check(device);
    return result ? result : answer(text, length, device->card.model);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned length)
{
    nvmlReturn_t result = nvml_known(device);
    return result ? result : answer(text, length, device->card.uuid);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    nvmlReturn_t result = index ? nvml_known(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *index = device->index;
    return result;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor)
{
    nvmlReturn_t result = minor ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *minor = (unsigned)device->card.id;
    return result;
}

static uint64_t used_bytes(nvmlDevice_t device)
{
    sim_state_lock(device->gpu);
    sim_state_reap(nvml.state, device->gpu, false);
    uint64_t used = sim_state_used(nvml.state, device->gpu);
    sim_state_unlock(device->gpu);
    return used < device->card.memory ? used : device->card.memory;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlReturn_t result = memory ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    memory->total = device->card.memory;
    memory->used = used_bytes(device);
    memory->free = memory->total - memory->used;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlMemory_t simple;
    nvmlReturn_t result = memory ? nvmlDeviceGetMemoryInfo(device, &simple) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    memory->total = simple.total;
    memory->reserved = 0;
    memory->used = simple.used;
    memory->free = simple.free;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    nvmlReturn_t result = rates ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    sim_state_lock(device->gpu);
    sim_sched_advance(nvml.state, device->gpu, &nvml.config.timing);
    rates->gpu = nvml.state->gpus[device->gpu].utilization;
    sim_state_unlock(device->gpu);
    rates->memory = 0;
    return NVML_OK;
}

void nvml_pci(const struct sim_card *card, nvmlPciInfo_t *info)
{
    memset(info, 0, sizeof *info);
    unsigned function = 0;
    if (sscanf(card->pci, "%8x:%2x:%2x.%1x", &info->domain, &info->bus, &info->device, &function) < 3)
        return;
    snprintf(info->legacy_id, sizeof info->legacy_id, "%04X:%02X:%02X.%X", info->domain & 0xffff, info->bus & 0xff, info->device & 0xff, function & 0xf);
    snprintf(info->id, sizeof info->id, "%08X:%02X:%02X.%X", info->domain, info->bus, info->device, function);
    info->device_id = 0x233010de;
    info->subsystem_id = 0x16c110de;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = info ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        nvml_pci(&device->card, info);
    return result;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    nvmlReturn_t result = major && minor ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    *major = device->card.cc_major;
    *minor = device->card.cc_minor;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned *cores)
{
    nvmlReturn_t result = cores ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *cores = (unsigned)device->card.sms * 128;
    return result;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    nvmlReturn_t result = current && pending ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *current = *pending = 0;
    return result;
}
