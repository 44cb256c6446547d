/* Start of the simulated driver and the cards it shows. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct sim_driver sim = {.mutex = PTHREAD_MUTEX_INITIALIZER};

CUresult sim_check(void)
{
    /* as on a real card, a forked child of a process that used CUDA cannot */
    return sim.ready && sim.pid == getpid() ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_INITIALIZED;
}

static CUresult start(void)
{
    char error[768];
    if (sim.ready)
        return sim.pid == getpid() ? MICA_CUDA_SUCCESS : MICA_CUDA_NOT_INITIALIZED;
    if (!sim_config_read(&sim.config, error, sizeof error)) {
        fprintf(stderr, "mica-sim: %s\n", error);
        return MICA_CUDA_NO_DEVICE;
    }
    if (sim.config.count == 0)
        return MICA_CUDA_NO_DEVICE;
    sim.state = sim_state_open();
    if (!sim.state)
        return MICA_CUDA_UNKNOWN;
    if (!sim_state_same_clock(sim.state)) {
        fprintf(stderr, "mica-sim: the cards run on %s time, this process does not; remove the state file to begin anew\n",
                sim.state->is_virtual ? "virtual" : "real");
        return MICA_CUDA_UNKNOWN;
    }
    for (int d = 0; d < sim.config.count; d++) {
        struct sim_device *device = &sim.devices[d];
        device->card = &sim.config.cards[d];
        device->default_queue = -1;
        device->gpu = sim_state_gpu(sim.state, device->card->uuid);
        if (device->gpu < 0) {
            fprintf(stderr, "mica-sim: the state file knows %d other cards already; remove it\n", SIM_GPUS);
            return MICA_CUDA_UNKNOWN;
        }
    }
    sim.slot = sim_state_slot(sim.state);
    if (sim.slot < 0) {
        fprintf(stderr, "mica-sim: more than %d processes use the cards\n", SIM_SLOTS);
        return MICA_CUDA_UNKNOWN;
    }
    sim.pid = getpid();
    sim.ready = true;
    return MICA_CUDA_SUCCESS;
}

CUresult cuInit(unsigned flags)
{
    if (flags)
        return MICA_CUDA_INVALID_VALUE;
    if (sim.ready && sim.pid != getpid())
        return MICA_CUDA_NOT_INITIALIZED; /* a forked child: whoever held the mutex is not here */
    pthread_mutex_lock(&sim.mutex);
    CUresult result = start();
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

CUresult cuDriverGetVersion(int *version)
{
    static struct sim_config config;
    char error[768];
    if (!version)
        return MICA_CUDA_INVALID_VALUE;
    if (sim.ready)
        *version = sim.config.cuda;
    else
        *version = sim_config_read(&config, error, sizeof error) ? config.cuda : 13000;
    return MICA_CUDA_SUCCESS;
}

CUresult sim_device(CUdevice device, struct sim_device **out)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (device < 0 || device >= sim.config.count)
        return MICA_CUDA_INVALID_DEVICE;
    *out = &sim.devices[device];
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!count)
        return MICA_CUDA_INVALID_VALUE;
    *count = sim.config.count;
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    struct sim_device *found;
    CUresult result = sim_device(ordinal, &found);
    if (!result && !device)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *device = ordinal;
    return result;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (result)
        return result;
    if (!name || length <= 0)
        return MICA_CUDA_INVALID_VALUE;
    snprintf(name, (size_t)length, "%s", found->card->model);
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (result)
        return result;
    if (!uuid)
        return MICA_CUDA_INVALID_VALUE;
    unsigned char bytes[16];
    sim_config_uuid_bytes(found->card->uuid, bytes);
    memcpy(uuid->bytes, bytes, sizeof bytes);
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    return cuDeviceGetUuid_v2(uuid, device);
}

CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (result)
        return result;
    if (!id || length < 13)
        return MICA_CUDA_INVALID_VALUE;
    const char *pci = found->card->pci;
    snprintf(id, (size_t)length, "%s", strlen(pci) > 12 ? pci + strlen(pci) - 12 : pci);
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *id)
{
    CUresult result = sim_check();
    if (result)
        return result;
    if (!device || !id || strlen(id) < 7)
        return MICA_CUDA_INVALID_VALUE;
    for (int d = 0; d < sim.config.count; d++) {
        const char *pci = sim.devices[d].card->pci;
        if (strlen(id) <= strlen(pci) && strcmp(pci + strlen(pci) - strlen(id), id) == 0) {
            *device = d;
            return MICA_CUDA_SUCCESS;
        }
    }
    return MICA_CUDA_INVALID_DEVICE;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (result)
        return result;
    if (!major || !minor)
        return MICA_CUDA_INVALID_VALUE;
    *major = found->card->cc_major;
    *minor = found->card->cc_minor;
    return MICA_CUDA_SUCCESS;
}

static int pci_part(const char *pci, int part)
{
    unsigned value[3] = {0, 0, 0};
    if (sscanf(pci, "%8x:%2x:%2x", &value[0], &value[1], &value[2]) != 3)
        return 0;
    return (int)value[part];
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (result)
        return result;
    if (!value || attribute < 1 || attribute > 160)
        return MICA_CUDA_INVALID_VALUE;
    const struct sim_card *card = found->card;
    const int known[][2] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {10, 32},
        {11, 512}, {12, 65536}, {13, 1980000}, {16, card->sms}, {19, 1}, {31, 1}, {33, pci_part(card->pci, 1)}, {34, pci_part(card->pci, 2)},
        {36, 2619000}, {37, 5120}, {38, 52428800}, {39, 2048}, {40, 2}, {41, 1}, {50, pci_part(card->pci, 0)}, {75, card->cc_major}, {76, card->cc_minor},
        {78, 1}, {83, 1}, {102, 1}, {115, 1}, {134, card->numa}};
    *value = 0; /* an optional capability that these cards lack */
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i][0] == attribute)
            *value = known[i][1];
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    struct sim_device *found;
    CUresult result = sim_device(device, &found);
    if (!result && !bytes)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *bytes = found->card->memory;
    return result;
}

CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device)
{
    size_t wide = 0;
    CUresult result = bytes ? cuDeviceTotalMem_v2(&wide, device) : MICA_CUDA_INVALID_VALUE;
    if (!result)
        *bytes = wide > UINT32_MAX ? UINT32_MAX : (unsigned)wide;
    return result;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
    struct sim_device *a, *b;
    CUresult result = sim_device(device, &a);
    if (!result)
        result = sim_device(peer, &b);
    if (!result && !can)
        result = MICA_CUDA_INVALID_VALUE;
    if (!result)
        *can = device != peer;
    return result;
}
