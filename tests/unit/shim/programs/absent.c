/* Linked to a driver function that the simulated driver lacks: must load, and the call must answer. Prints that and dlsym's view of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int cuProfilerStart(void);

int main(void)
{
    printf("%d %d\n", cuProfilerStart(), dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuProfilerStart") == NULL);
    return 0;
}
