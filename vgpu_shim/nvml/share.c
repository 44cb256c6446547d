/* What the container may see: limits and region, both only read. Both are looked at again with each question; NVML is not asked often. */
#include "front.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/find.h"
#include "../src/ledger.h"
#include "../src/util.h"

/* Tells this library from the real one. */
__attribute__((visibility("default"))) const int mica_nvml_front = 1;

static mica_lock lock;
static void *real;
static bool tried;
static const struct mica_region *region;
static int region_fd = -1;

static bool try_library(const char *path, void *context)
{
    struct stat ours, theirs;
    Dl_info self;
    void **out = context;
    if (dladdr(&mica_nvml_front, &self) && self.dli_fname && stat(self.dli_fname, &ours) == 0 && stat(path, &theirs) == 0
        && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino)
        return false;
    void *opened = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (opened && dlsym(opened, "nvmlInit_v2") && !dlsym(opened, "mica_nvml_front")) {
        *out = opened;
        return true;
    }
    if (opened)
        dlclose(opened);
    return false;
}

void *mica_nvml_real(const char *name)
{
    mica_acquire(&lock);
    if (!tried && !mica_find_library(MICA_FIND_NVML, try_library, &real))
        real = NULL;
    tried = true;
    mica_release(&lock);
    return real ? dlsym(real, name) : NULL;
}

nvmlReturn_t mica_nvml_absent(void)
{
    return real ? NVML_FUNCTION_NOT_FOUND : NVML_LIBRARY_NOT_FOUND;
}

static void map_region(enum mica_source source)
{
    char buffer[512];
    bool create;
    struct stat st;
    const char *path = mica_ledger_path(source, buffer, sizeof buffer, &create);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (fd < 0)
        return;
    void *at = MAP_FAILED;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == MICA_REGION_BYTES)
        at = mmap(NULL, MICA_REGION_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED && mica_ledger_valid(at)) {
        region = at;
        region_fd = fd;
        return;
    }
    if (at != MAP_FAILED)
        munmap(at, MICA_REGION_BYTES);
    close(fd);
}

const struct mica_region *mica_nvml_region(void)
{
    const char *path;
    mica_acquire(&lock);
    if (!region)
        map_region(mica_limits_source(&path));
    mica_release(&lock);
    return region;
}

bool mica_nvml_slot_alive(unsigned slot)
{
    struct stat st;
    /* a program may have closed every descriptor: what has the number now says nothing */
    bool ours = region_fd >= 0 && fstat(region_fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == MICA_REGION_BYTES;
    return !ours || mica_ledger_slot_alive(region_fd, slot);
}

static bool same_uuid(const char *limit, const char *device)
{
    const char *a = strchr(limit, '-'), *b = strchr(device, '-');
    return a && b && strcasecmp(a, b) == 0;
}

static int record_of(const char *uuid)
{
    const struct mica_region *at = mica_nvml_region();
    for (int g = 0; at && g < MICA_GPUS; g++) {
        char name[48];
        memcpy(name, at->gpus[g].uuid, sizeof name);
        name[sizeof name - 1] = '\0';
        if (same_uuid(name, uuid))
            return g;
    }
    return -1;
}

nvmlReturn_t mica_nvml_share(nvmlDevice_t device, struct mica_share *share)
{
    static nvmlReturn_t (*get_uuid)(nvmlDevice_t, char *, unsigned);
    struct mica_limits limits;
    struct stat st;
    const char *path;
    char error[192], uuid[96];
    *share = (struct mica_share){.kind = MICA_SHARE_NONE, .gpu = -1};
    if (!get_uuid)
        get_uuid = (nvmlReturn_t(*)(nvmlDevice_t, char *, unsigned))mica_nvml_real("nvmlDeviceGetUUID");
    nvmlReturn_t result = get_uuid ? get_uuid(device, uuid, sizeof uuid) : mica_nvml_absent();
    if (result)
        return result;
    enum mica_source source = mica_limits_source(&path);
    bool known = source == MICA_SOURCE_FILE ? mica_limits_read(path, &limits, &st, error, sizeof error)
                                            : mica_limits_from_env(&limits, error, sizeof error);
    share->gpu = record_of(uuid);
    if (!known) {
        share->kind = source == MICA_SOURCE_ENV ? MICA_SHARE_ALL : MICA_SHARE_NONE; /* nobody asked for limits; or they are broken */
    } else if (!limits.enforce) {
        share->kind = MICA_SHARE_ALL;
    } else if (source == MICA_SOURCE_ENV) {
        share->kind = MICA_SHARE_SOME;
        share->limit = limits.gpu[0].memory;
    }
    for (uint32_t g = 0; known && source == MICA_SOURCE_FILE && limits.enforce && g < limits.gpus; g++)
        if (same_uuid(limits.gpu[g].uuid, uuid)) {
            share->kind = MICA_SHARE_SOME;
            share->limit = limits.gpu[g].memory;
        }
    return NVML_OK;
}

uint64_t mica_nvml_used(const struct mica_share *share)
{
    uint64_t used = share->gpu < 0 ? 0 : atomic_load(&mica_nvml_region()->gpus[share->gpu].used) & MICA_USED_MASK;
    return used < share->limit ? used : share->limit;
}
