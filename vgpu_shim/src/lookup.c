/* Looking functions up: the dlsym that programs call, cuGetProcAddress, and forwarders of everything that is not hooked. */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "driver.h"

void *(*mica_real_dlsym)(void *handle, const char *name);
extern void *dlsym(void *handle, const char *name) __attribute__((visibility("default"))); /* ours, in entry_x86_64.S */

/* Called from the assembly entry points. */
void *mica_dlsym_handle(void *handle, const char *name);
void *mica_dlsym_pseudo(void *handle, const char *name);
void *mica_forward_resolve(unsigned index);

void mica_lookup_init(void)
{
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
    for (size_t i = 0; !mica_real_dlsym && i < sizeof versions / sizeof versions[0]; i++)
        mica_real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", versions[i]);
}

void *mica_lookup_plain(const char *name)
{
    if (!mica_real_dlsym)
        mica_lookup_init();
    void *found = mica_real_dlsym ? mica_real_dlsym(RTLD_DEFAULT, name) : NULL;
    void *threads = found || !mica_real_dlsym ? NULL : dlopen("libpthread.so.0", RTLD_LAZY | RTLD_NOLOAD); /* before glibc 2.34 */
    return threads ? mica_real_dlsym(threads, name) : found;
}

/* Exact names of the driver start like this; the tables decide, not the prefix (cudnn*, cublas*, cuda* must pass). */
static bool may_be_driver(const char *name)
{
    return name && name[0] == 'c' && name[1] == 'u' && name[2] >= 'A' && name[2] <= 'Z';
}

static struct link_map *own_map(void)
{
    static _Atomic(struct link_map *) cached;
    struct link_map *map = atomic_load(&cached);
    Dl_info info;
    if (!map && dladdr1((void *)&own_map, &info, (void **)&map, RTLD_DL_LINKMAP))
        atomic_store(&cached, map);
    return map;
}

/* True when the object that holds the pointer calls itself libcuda.so.1. */
static bool in_some_driver(void *pointer)
{
    Dl_info info;
    struct link_map *map = NULL;
    const char *strings = NULL;
    size_t soname = 0;
    if (!dladdr1(pointer, &info, (void **)&map, RTLD_DL_LINKMAP) || !map || !map->l_ld)
        return false;
    for (const ElfW(Dyn) *at = map->l_ld; at->d_tag != DT_NULL; at++) {
        if (at->d_tag == DT_STRTAB)
            strings = (const char *)at->d_un.d_ptr;
        if (at->d_tag == DT_SONAME)
            soname = at->d_un.d_val;
    }
    if (strings && (uintptr_t)strings < map->l_addr) /* a loader that keeps .dynamic as it is in the file */
        strings += map->l_addr;
    return strings && soname && strcmp(strings + soname, "libcuda.so.1") == 0;
}

static void *driver_name(const char *name, void *otherwise)
{
    if (!mica_driver())
        return otherwise;
    void *pointer = mica_driver_symbol(name); /* sets dlerror when the driver has no such name */
    return pointer ? mica_driver_route(pointer, name) : NULL;
}

void *mica_dlsym_handle(void *handle, const char *name)
{
    if (MICA_UNLIKELY(!mica_real_dlsym))
        mica_lookup_init();
    if (MICA_UNLIKELY(!mica_real_dlsym))
        return NULL;
    void *found = mica_real_dlsym(handle, name);
    if (found && found == (void *)mica_real_dlsym)
        return (void *)dlsym; /* a way around us otherwise */
    if (!may_be_driver(name))
        return found;
    if (handle == (void *)own_map()) /* dlopen("libcuda.so.1") gives our handle; the driver has the say on what exists */
        return driver_name(name, found);
    if (!found || !in_some_driver(found))
        return found; /* another library may own such a name */
    /* The driver by path, or another copy of it: all calls go to the one copy that is in use. */
    return driver_name(name, found);
}

/* RTLD_NEXT and RTLD_DEFAULT depend on who asks, so the assembly jumps to the real dlsym unless this finds a driver function. */
void *mica_dlsym_pseudo(void *handle, const char *name)
{
    if (MICA_UNLIKELY(!mica_real_dlsym))
        mica_lookup_init();
    if (!may_be_driver(name) || !mica_real_dlsym)
        return NULL;
    void *next = mica_real_dlsym(handle, name);
    if (!next || !in_some_driver(next))
        return NULL;
    return driver_name(name, NULL);
}

/* Forwarders. */

static const char *const forward_names[] = {
#define MICA_FORWARD(symbol) #symbol,
#include "forwards.inc"
};

/* One word per forwarder, filled on first call; the trampolines jump through it. */
_Atomic(void *) mica_forward_table[sizeof forward_names / sizeof forward_names[0]] __attribute__((visibility("hidden")));

static CUresult absent(void)
{
    return mica_driver_absent();
}

void *mica_forward_resolve(unsigned index)
{
    void *target = mica_driver_symbol(forward_names[index]);
    if (target || atomic_load(&mica_driver_state) >= 2)
        atomic_store_explicit(&mica_forward_table[index], target ? target : (void *)absent, memory_order_release);
    return target ? target : (void *)absent;
}

/* cuGetProcAddress. */

static void *checked_route(void *pointer, const char *name)
{
    void *routed = mica_driver_route(pointer, name);
    static const char *const families[] = {"cuMemAlloc", "cuMemCreate", "cuLaunchKernel", "cuGraphLaunch"};
    static const char *const passed[] = {"cuMemAllocHost", "cuMemAllocHost_v2"};
    if (routed != pointer || !name)
        return routed;
    for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++)
        if (strcmp(name, passed[i]) == 0)
            return routed;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(name, families[i]) == 0)
            MICA_LOG_ONCE("the driver has a form of %s that this limiter does not know; calls to it are not limited", name);
    return routed;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    CUresult result = MICA_REAL(cuGetProcAddress_v2, symbol, function, version, flags, status);
    if (result == MICA_CUDA_SUCCESS && function && *function)
        *function = checked_route(*function, symbol);
    return result;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    CUresult result = MICA_REAL(cuGetProcAddress, symbol, function, version, flags);
    if (result == MICA_CUDA_SUCCESS && function && *function)
        *function = checked_route(*function, symbol);
    return result;
}
