/* Threads that allocate and free for a while, then fill what is left. Prints the bytes they hold at the end. usage: race THREADS ROUNDS */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda_min.h"

enum { MIB2 = 2 << 20 };
static CUcontext context;
static int rounds;
static unsigned long long held[64];

static void *work(void *argument)
{
    unsigned long long *mine = argument;
    unsigned seed = (unsigned)(mine - held);
    CUdeviceptr kept[8] = {0}, pointer;
    cuCtxSetCurrent(context);
    for (int i = 0; i < rounds; i++) {
        CUdeviceptr *place = &kept[rand_r(&seed) % 8];
        if (*place)
            cuMemFree_v2(*place), *place = 0;
        else if (cuMemAlloc_v2(place, (size_t)(1 + rand_r(&seed) % 16) * MIB2))
            *place = 0;
    }
    for (int i = 0; i < 8; i++)
        if (kept[i])
            cuMemFree_v2(kept[i]);
    while (cuMemAlloc_v2(&pointer, MIB2) == 0)
        *mine += MIB2;
    return NULL;
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[1]) : 1;
    pthread_t threads[64];
    unsigned long long sum = 0;
    rounds = argc > 2 ? atoi(argv[2]) : 0;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0))
        return 1;
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, work, &held[i]);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL), sum += held[i];
    printf("%llu\n", sum);
    fflush(stdout);
    return getchar() == 'x'; /* keeps the memory until told */
}
