/* Memory that graphs allocate: addresses are fixed when the node is made, physical memory is taken at the first launch that needs it and kept until it is
 * trimmed. All graphs of a process share it, per card. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

struct live {
    CUdeviceptr at;
    uint64_t bytes;
    struct sim_device *device;
    struct live *next;
};
static struct live *lives;

CUdeviceptr sim_graph_pointer(uint64_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    CUdeviceptr at = sim_address_take(sim_round(bytes), UINT64_C(2) << 20);
    pthread_mutex_unlock(&sim.mutex);
    return at;
}

CUresult sim_graph_memory_begin(struct sim_device *device, uint64_t peak)
{
    CUresult result = MICA_CUDA_SUCCESS;
    pthread_mutex_lock(&sim.mutex);
    uint64_t wanted = device->graph_used + peak;
    if (wanted > device->graph_reserved) {
        result = sim_take(device, wanted - device->graph_reserved);
        if (!result)
            device->graph_reserved = wanted;
    }
    if (device->graph_reserved > device->graph_reserved_high)
        device->graph_reserved_high = device->graph_reserved;
    pthread_mutex_unlock(&sim.mutex);
    return result;
}

void sim_graph_memory_live(struct sim_device *device, CUdeviceptr pointer, uint64_t bytes)
{
    struct live *live = malloc(sizeof *live);
    pthread_mutex_lock(&sim.mutex);
    if (live) {
        *live = (struct live){pointer, bytes, device, lives};
        lives = live;
        device->graph_used += bytes;
    }
    if (device->graph_used > device->graph_used_high)
        device->graph_used_high = device->graph_used;
    pthread_mutex_unlock(&sim.mutex);
}

bool sim_graph_memory_free(CUdeviceptr pointer)
{
    bool found = false;
    pthread_mutex_lock(&sim.mutex);
    for (struct live **at = &lives; *at && !found; at = *at ? &(*at)->next : at) {
        struct live *live = *at;
        if (live->at != pointer)
            continue;
        live->device->graph_used -= live->bytes;
        *at = live->next;
        free(live);
        found = true;
        break;
    }
    pthread_mutex_unlock(&sim.mutex);
    return found;
}

bool sim_graph_memory_covers(CUdeviceptr pointer, size_t bytes)
{
    pthread_mutex_lock(&sim.mutex);
    const struct live *at = lives;
    while (at && !(pointer >= at->at && pointer - at->at <= at->bytes && bytes <= at->bytes - (pointer - at->at)))
        at = at->next;
    pthread_mutex_unlock(&sim.mutex);
    return at != NULL;
}

CUresult cuDeviceGraphMemTrim(CUdevice number)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    pthread_mutex_lock(&sim.mutex);
    sim_give(device, device->graph_reserved - device->graph_used);
    device->graph_reserved = device->graph_used;
    pthread_mutex_unlock(&sim.mutex);
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice number, int attribute, void *value)
{
    struct sim_device *device;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (!value || attribute < 0 || attribute > 3)
        return MICA_CUDA_INVALID_VALUE;
    const uint64_t values[] = {device->graph_used, device->graph_used_high, device->graph_reserved, device->graph_reserved_high};
    memcpy(value, &values[attribute], sizeof values[0]);
    return MICA_CUDA_SUCCESS;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice number, int attribute, void *value)
{
    struct sim_device *device;
    uint64_t zero = 1;
    CUresult result = sim_device(number, &device);
    if (result)
        return result;
    if (value)
        memcpy(&zero, value, sizeof zero);
    if (zero || (attribute != 1 && attribute != 3)) /* the high-water marks can be reset, nothing else */
        return MICA_CUDA_INVALID_VALUE;
    if (attribute == 1)
        device->graph_used_high = device->graph_used;
    else
        device->graph_reserved_high = device->graph_reserved;
    return MICA_CUDA_SUCCESS;
}
