/* One thread loads a library whose constructor takes the primary context (built with LIBRARY), the other takes it meanwhile.
 * usage: two_contexts LIBRARY */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "cuda_min.h"

static void *take(void *unused)
{
    CUcontext context;
    printf("%d\n", cuDevicePrimaryCtxRetain(&context, 0));
    fflush(stdout);
    return unused;
}

#ifdef LIBRARY
__attribute__((constructor)) static void start(void)
{
    usleep(300000);
    take(NULL);
}
#else
static void *later(void *unused)
{
    usleep(100000);
    return take(unused);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (cuInit(0) || pthread_create(&thread, NULL, later, NULL))
        return 2;
    void *opened = dlopen(argv[argc - 1], RTLD_NOW);
    pthread_join(thread, NULL);
    return opened == NULL;
}
#endif
