/* A library that looks a driver function up while it is loaded, when another thread has begun to load the driver. */
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

__attribute__((constructor)) static void look_up(void)
{
    usleep(300000);
    printf("%d\n", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2") != NULL);
    fflush(stdout);
}
