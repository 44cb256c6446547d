/* Reach the driver in one way, try to allocate 2 GiB, and print the error: 2 under a smaller limit, 0 without. usage: paths WAY [DRIVER] */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_min.h"

static void *(*lookup)(void *, const char *) = dlsym;
static void *handle;
static int proc_version; /* 0: dlsym, 1 or 2: that version of cuGetProcAddress */

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
    proc_version = strcmp(way, "proc1") == 0 ? 1 : strcmp(way, "proc2") == 0 ? 2 : 0;
    printf("%d\n", attempt());
    return 0;
}
