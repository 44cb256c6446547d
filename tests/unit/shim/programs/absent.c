/* Linked to a driver function that the simulated driver lacks: must load, and the call must answer. Prints that and dlsym's view of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int cuGraphCreate(void **graph, unsigned flags);

int main(void)
{
    void *graph;
    printf("%d %d\n", cuGraphCreate(&graph, 0), dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuGraphCreate") == NULL);
    return 0;
}
