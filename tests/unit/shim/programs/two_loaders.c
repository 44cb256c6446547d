/* One thread loads a library, the other starts the driver meanwhile. usage: two_loaders LIBRARY */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "cuda_min.h"

static void *start_driver(void *unused)
{
    usleep(100000);
    printf("%d\n", cuInit(0));
    fflush(stdout);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    pthread_create(&thread, NULL, start_driver, NULL);
    void *opened = dlopen(argv[argc - 1], RTLD_NOW);
    pthread_join(thread, NULL);
    return opened == NULL;
}
