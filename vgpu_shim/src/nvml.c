/* The one question that the limiter has for NVML: how much of a card does this process hold, by the driver's own count? In a container whose
 * processes NVML cannot see (host process ids) there is no answer. */
#include <dlfcn.h>
#include <unistd.h>

#include "overhead.h"

struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};

enum { UNTRIED, LOADED, READY, NONE };
enum { OK = 0, TOO_SMALL = 7, MOST = 4096 };

struct functions {
    int (*init)(void);
    int (*by_uuid)(const char *uuid, void **device);
    int (*processes)(void *device, unsigned *count, struct process *list);
};

static _Atomic int state;
static mica_lock lock;
static struct functions nvml; /* written once, under the lock */

static bool try_library(const char *path, void *context)
{
    struct functions *found = context;
    void *opened = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!opened)
        return false;
    bool front = mica_real_dlsym(opened, "mica_nvml_front") != NULL; /* it shows the slice, not the card */
    found->init = (int (*)(void))mica_real_dlsym(opened, "nvmlInit_v2");
    found->by_uuid = (int (*)(const char *, void **))mica_real_dlsym(opened, "nvmlDeviceGetHandleByUUID");
    found->processes = (int (*)(void *, unsigned *, struct process *))mica_real_dlsym(opened, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (!found->processes)
        found->processes = (int (*)(void *, unsigned *, struct process *))mica_real_dlsym(opened, "nvmlDeviceGetComputeRunningProcesses_v2");
    if (!front && found->init && found->by_uuid && found->processes)
        return true;
    dlclose(opened);
    return false;
}

void mica_nvml_load(void)
{
    struct functions found = {NULL, NULL, NULL};
    if (atomic_load(&state) != UNTRIED)
        return;
    const bool loaded = mica_find_library(MICA_FIND_NVML, try_library, &found);
    mica_acquire(&lock);
    if (atomic_load(&state) == UNTRIED) { /* else another thread found the same */
        nvml = found;
        atomic_store(&state, loaded ? LOADED : NONE);
    }
    mica_release(&lock);
}

/* Lock held. */
static bool ready(void)
{
    if (atomic_load(&state) == LOADED)
        atomic_store(&state, nvml.init() == OK ? READY : NONE);
    return atomic_load(&state) == READY;
}

static bool find_own(const struct process *list, unsigned count, uint64_t *bytes)
{
    const unsigned self = (unsigned)getpid();
    for (unsigned i = 0; i < count; i++)
        if (list[i].pid == self && list[i].bytes <= MICA_USED_MASK) {
            *bytes = list[i].bytes;
            return true;
        }
    return false;
}

bool mica_nvml_own_bytes(const char *uuid, uint64_t *bytes)
{
    void *device;
    bool found = false;
    mica_acquire(&lock);
    if (ready() && nvml.by_uuid(uuid, &device) == OK) {
        struct process few[64];
        unsigned count = sizeof few / sizeof few[0];
        int result = nvml.processes(device, &count, few);
        if (result == OK)
            found = find_own(few, count, bytes);
        if (result == TOO_SMALL && count < MOST) {
            count += 64;
            struct mica_pages pages = mica_pages_get(count * sizeof(struct process));
            found = pages.at && nvml.processes(device, &count, pages.at) == OK && find_own(pages.at, count, bytes);
            mica_pages_put(pages);
        }
    }
    mica_release(&lock);
    return found;
}

void mica_nvml_forked(void)
{
    atomic_store(&state, UNTRIED);
    atomic_store(&lock, 0);
}
