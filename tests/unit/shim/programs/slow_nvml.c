/* An NVML that takes its time with threads other than the first, and says so when it is torn down while one of them is inside. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

_Atomic int slow_calls;

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    *device = (void *)uuid;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *list)
{
    (void)device, (void)list;
    *count = 0;
    if (syscall(SYS_gettid) == getpid())
        return 0;
    atomic_fetch_add(&slow_calls, 1);
    usleep(60000);
    atomic_fetch_sub(&slow_calls, 1);
    return 0;
}

__attribute__((destructor)) static void torn_down(void)
{
    if (atomic_load(&slow_calls))
        (void)!write(1, "[\"torn down during a call\"]\n", 28);
}
