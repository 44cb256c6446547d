/* Where the simulated cards sit: NUMA nodes, distances, NVLinks; and the events that tell of their health. */
#include "nvml.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned *node)
{
    nvmlReturn_t result = node ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    if (device->card.numa < 0)
        return NVML_NOT_SUPPORTED;
    *node = (unsigned)device->card.numa;
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned words, unsigned long *nodes, unsigned scope)
{
    (void)scope;
    nvmlReturn_t result = nodes && words ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    if (device->card.numa < 0)
        return NVML_NOT_SUPPORTED;
    const unsigned bits = 8 * sizeof *nodes, node = (unsigned)device->card.numa;
    memset(nodes, 0, words * sizeof *nodes);
    if (node / bits >= words)
        return NVML_TOO_SMALL;
    nodes[node / bits] |= 1ul << (node % bits);
    return NVML_OK;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, unsigned *level)
{
    nvmlReturn_t result = level ? nvml_check(a) : NVML_BAD_ARGUMENT;
    if (!result)
        result = nvml_check(b);
    if (result)
        return result;
    static const unsigned levels[] = {[SIM_LINK_PIX] = 10, [SIM_LINK_PXB] = 20, [SIM_LINK_PHB] = 30, [SIM_LINK_NODE] = 40, [SIM_LINK_SYS] = 50};
    int link = sim_config_link(&nvml.config, &a->card, &b->card);
    if (link >= SIM_LINK_NV) /* NVLinks say nothing of the PCI tree */
        link = a->card.numa >= 0 && a->card.numa == b->card.numa ? SIM_LINK_NODE : SIM_LINK_SYS;
    *level = a == b ? 0 : levels[link];
    return NVML_OK;
}

/* The card at the other end of an NVLink: links are numbered over the peers in order. */
static nvmlDevice_t peer(nvmlDevice_t device, unsigned link)
{
    unsigned before = 0;
    for (int i = 0; i < nvml.config.count; i++) {
        int kind = &nvml.devices[i] == device ? 0 : sim_config_link(&nvml.config, &device->card, &nvml.devices[i].card);
        unsigned lanes = kind > SIM_LINK_NV ? (unsigned)(kind - SIM_LINK_NV) : 0;
        if (link < before + lanes)
            return &nvml.devices[i];
        before += lanes;
    }
    return NULL;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    nvmlReturn_t result = active && link < 18 ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *active = peer(device, link) != NULL;
    return result;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = info && link < 18 ? nvml_check(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    nvmlDevice_t other = peer(device, link);
    if (!other)
        return NVML_NOT_SUPPORTED;
    nvml_pci(&other->card, info);
    return NVML_OK;
}

/* Events. */

struct nvml_events {
    bool watched[SIM_GPUS];
    unsigned known[SIM_GPUS]; /* Xid last told */
};

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    nvmlReturn_t result = types ? nvml_known(device) : NVML_BAD_ARGUMENT;
    if (!result)
        *types = NVML_EVENT_XID;
    return result;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!set)
        return NVML_BAD_ARGUMENT;
    *set = calloc(1, sizeof **set);
    return *set ? NVML_OK : NVML_UNKNOWN;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    nvmlReturn_t result = set ? nvml_known(device) : NVML_BAD_ARGUMENT;
    if (result)
        return result;
    if (types & ~NVML_EVENT_XID)
        return NVML_NOT_SUPPORTED;
    set->watched[device->index] = true;
    set->known[device->index] = 0; /* a card that is sick already is told at once */
    return NVML_OK;
}

static bool next_event(nvmlEventSet_t set, nvmlEventData_t *data)
{
    for (int i = 0; i < nvml.config.count; i++) {
        unsigned xid = set->watched[i] ? sim_config_health(nvml.devices[i].card.uuid) : 0;
        unsigned before = set->known[i];
        set->known[i] = xid;
        if (!xid || xid == before)
            continue;
        *data = (nvmlEventData_t){.device = &nvml.devices[i], .type = NVML_EVENT_XID, .data = xid, .gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
        return true;
    }
    return false;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    if (nvml.users <= 0)
        return NVML_UNINITIALIZED;
    if (!set || !data)
        return NVML_BAD_ARGUMENT;
    uint64_t deadline = sim_clock_ns() + (uint64_t)timeout_ms * 1000000u;
    while (!next_event(set, data)) {
        uint64_t now = sim_clock_ns();
        if (now >= deadline)
            return NVML_TIMEOUT;
        uint64_t left = deadline - now;
        struct timespec ts = {.tv_nsec = left > 60000000u ? 60000000 : (long)left};
        nanosleep(&ts, NULL);
    }
    return NVML_OK;
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    if (!set)
        return NVML_BAD_ARGUMENT;
    free(set);
    return NVML_OK;
}
