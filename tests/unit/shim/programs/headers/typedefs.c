/* A program that finds every function by cuGetProcAddress, with the types of cudaTypedefs.h, at one version and with one flag. Allocates 2 GiB and launches
 * a kernel of no time; prints the two errors. usage: typedefs VERSION FLAGS */
#include <cudaTypedefs.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    PFN_cuGetProcAddress_v12000 get = driver ? (PFN_cuGetProcAddress_v12000)dlsym(driver, "cuGetProcAddress_v2") : NULL;
    const int version = argc > 1 ? atoi(argv[1]) : 13000;
    const cuuint64_t flags = argc > 2 ? (cuuint64_t)atoi(argv[2]) : 0;
    CUdriverProcAddressQueryResult status;
    void *found;
#define FIND(type, name) ((type)(get(name, &found, version, flags, &status) ? NULL : found))
    PFN_cuInit_v2000 init = FIND(PFN_cuInit_v2000, "cuInit");
    PFN_cuDevicePrimaryCtxRetain_v7000 retain = FIND(PFN_cuDevicePrimaryCtxRetain_v7000, "cuDevicePrimaryCtxRetain");
    PFN_cuCtxSetCurrent_v4000 current = FIND(PFN_cuCtxSetCurrent_v4000, "cuCtxSetCurrent");
    PFN_cuMemAlloc_v3020 allocate = FIND(PFN_cuMemAlloc_v3020, "cuMemAlloc");
    PFN_cuModuleLoadData_v2000 load = FIND(PFN_cuModuleLoadData_v2000, "cuModuleLoadData");
    PFN_cuModuleGetFunction_v2000 function = FIND(PFN_cuModuleGetFunction_v2000, "cuModuleGetFunction");
    PFN_cuLaunchKernel_v7000_ptsz launch = FIND(PFN_cuLaunchKernel_v7000_ptsz, "cuLaunchKernel");
    PFN_cuCtxSynchronize_v2000 wait = FIND(PFN_cuCtxSynchronize_v2000, "cuCtxSynchronize");
    CUcontext context;
    CUmodule module;
    CUfunction kernel;
    CUdeviceptr at;
    unsigned long long ns = 1000;
    void *params[] = {&ns};
    if (!init || !retain || !current || !allocate || !load || !function || !launch || !wait || init(0) || retain(&context, 0) || current(context))
        return 1;
    if (load(&module, "image") || function(&kernel, module, "spin"))
        return 2;
    int refused = allocate(&at, (size_t)2 << 30), launched = launch(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL);
    printf("%d %d %d\n", refused, launched, wait());
    return 0;
}
