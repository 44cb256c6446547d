/* Reach the driver in one way, try to allocate 2 GiB, and print the error: 2 under a smaller limit, 0 without. usage: paths WAY [DRIVER] */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_min.h"

static void *(*lookup)(void *, const char *) = dlsym;
static void *handle;
static int proc_version; /* 0: dlsym, 1 or 2: that version of cuGetProcAddress */

static ElfW(Addr) entry_of(const struct link_map *object, ElfW(Sxword) tag)
{
    for (const ElfW(Dyn) *at = object->l_ld; at->d_tag != DT_NULL; at++)
        if (at->d_tag == tag)
            return at->d_un.d_ptr;
    return 0;
}

/* The object's own tables, read as a profiler or a launcher of its own reads them: no lookup function is asked. */
static void *walk(void *object, const char *symbol)
{
    const struct link_map *map = object;
    const char *names = (const char *)entry_of(map, DT_STRTAB);
    const ElfW(Sym) *symbols = (const ElfW(Sym) *)entry_of(map, DT_SYMTAB);
    const uint32_t *hash = (const uint32_t *)entry_of(map, DT_GNU_HASH);
    if (!names || !symbols || !hash)
        return NULL;
    const uint32_t *buckets = hash + 4 + hash[2] * (sizeof(ElfW(Addr)) / 4), *chains = buckets + hash[0];
    for (uint32_t b = 0; b < hash[0]; b++)
        for (uint32_t s = buckets[b]; s; s = chains[s - hash[1]] & 1 ? 0 : s + 1)
            if (strcmp(names + symbols[s].st_name, symbol) == 0)
                return (void *)(map->l_addr + symbols[s].st_value);
    return NULL;
}

static void *find(const char *symbol, const char *base, int version)
{
    void *found = NULL;
    int status;
    if (proc_version == 1) {
        CUresult (*get)(const char *, void **, int, uint64_t) = (CUresult(*)(const char *, void **, int, uint64_t))lookup(handle, "cuGetProcAddress");
        return get(base, &found, version, 0) ? NULL : found;
    }
    if (proc_version == 2) {
        CUresult (*get)(const char *, void **, int, uint64_t, int *) =
            (CUresult(*)(const char *, void **, int, uint64_t, int *))lookup(handle, "cuGetProcAddress_v2");
        return get(base, &found, version, 2, &status) ? NULL : found;
    }
    return lookup(handle, symbol);
}

static int attempt(void)
{
    CUresult (*init)(unsigned) = (CUresult(*)(unsigned))find("cuInit", "cuInit", 2000);
    CUresult (*retain)(CUcontext *, CUdevice) = (CUresult(*)(CUcontext *, CUdevice))find("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain", 7000);
    CUresult (*current)(CUcontext) = (CUresult(*)(CUcontext))find("cuCtxSetCurrent", "cuCtxSetCurrent", 4000);
    CUresult (*allocate)(CUdeviceptr *, size_t) = (CUresult(*)(CUdeviceptr *, size_t))find("cuMemAlloc_v2", "cuMemAlloc", 3020);
    CUcontext context;
    CUdeviceptr pointer;
    if (!init || !retain || !current || !allocate || init(0) || retain(&context, 0) || current(context))
        return -1;
    return allocate(&pointer, (size_t)2 << 30);
}

int main(int argc, char **argv)
{
    const char *way = argv[1], *path = argc > 2 ? argv[2] : "libcuda.so.1";
    if (strcmp(way, "linked") == 0)
        handle = RTLD_DEFAULT;
    else if (strcmp(way, "deepbind") == 0)
        handle = dlopen(path, RTLD_NOW | RTLD_DEEPBIND);
    else if (strcmp(way, "dlmopen") == 0)
        handle = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    else if (strcmp(way, "next") == 0)
        handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL) ? RTLD_NEXT : NULL;
    else
        handle = dlopen(path, RTLD_NOW);
    if (!handle && strcmp(way, "linked") != 0)
        return printf("no handle: %s\n", dlerror()), 1;
    if (strcmp(way, "real-dlsym") == 0) /* libc's own dlsym, looked up by name */
        lookup = (void *(*)(void *, const char *))dlsym(dlopen("libc.so.6", RTLD_NOW), "dlsym");
    if (strcmp(way, "walk") == 0)
        lookup = walk;
    proc_version = strcmp(way, "proc1") == 0 ? 1 : strcmp(way, "proc2") == 0 ? 2 : 0;
    printf("%d\n", attempt());
    return 0;
}
