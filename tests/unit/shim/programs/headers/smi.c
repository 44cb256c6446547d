/* What nvidia-smi asks NVML, in every form of the structures that the header has. Prints one line of JSON. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>
#include <stdio.h>

int main(void)
{
    nvmlDevice_t device;
    nvmlMemory_t memory;
    nvmlMemory_v2_t memory2 = {.version = nvmlMemory_v2};
    nvmlBAR1Memory_t bar;
    nvmlUtilization_t rates;
    nvmlProcessInfo_v1_t one[8];
    nvmlProcessInfo_v2_t two[8];
    nvmlProcessInfo_t three[8];
    unsigned n1 = 8, n2 = 8, n3 = 8, none = 8, short_of = 0, samples = 8;
    nvmlProcessDetail_v1_t details[8];
    nvmlProcessDetailList_t list = {.version = nvmlProcessDetailList_v1, .mode = 0, .numProcArrayEntries = 8, .procArray = details};
    nvmlProcessUtilizationSample_t busy[8];
    nvmlProcessUtilizationInfo_v1_t busy_info[8];
    nvmlProcessesUtilizationInfo_t info = {.version = nvmlProcessesUtilizationInfo_v1, .processSamplesCount = 8, .procUtilArray = busy_info};
    char name[96], program[64] = "";
    if (nvmlInit_v2() || nvmlDeviceGetHandleByIndex_v2(0, &device) || nvmlDeviceGetName(device, name, sizeof name))
        return 1;
    if (nvmlDeviceGetMemoryInfo(device, &memory) || nvmlDeviceGetMemoryInfo_v2(device, &memory2) || nvmlDeviceGetBAR1MemoryInfo(device, &bar)
        || nvmlDeviceGetUtilizationRates(device, &rates))
        return 2;
    if (nvmlDeviceGetComputeRunningProcesses(device, &n1, one) || nvmlDeviceGetComputeRunningProcesses_v2(device, &n2, two)
        || nvmlDeviceGetComputeRunningProcesses_v3(device, &n3, three) || nvmlDeviceGetGraphicsRunningProcesses_v3(device, &none, three + 1)
        || nvmlDeviceGetRunningProcessDetailList(device, &list))
        return 3;
    int size = nvmlDeviceGetComputeRunningProcesses_v3(device, &short_of, NULL);
    int sampled = nvmlDeviceGetProcessUtilization(device, busy, &samples, 0), sampled2 = nvmlDeviceGetProcessesUtilizationInfo(device, &info);
    if (n1)
        (void)nvmlSystemGetProcessName(one[0].pid, program, sizeof program);
    printf("{\"total\": [%llu, %llu], \"used\": [%llu, %llu], \"free\": [%llu, %llu], \"bar\": %llu, \"gpu\": %u, ", memory.total, memory2.total,
           memory.used, memory2.used, memory.free, memory2.free, bar.bar1Total, rates.gpu);
    printf("\"counts\": [%u, %u, %u, %u, %u, %u], \"size\": %d, \"program\": \"%s\", ", n1, n2, n3, list.numProcArrayEntries, none, short_of, size, program);
    printf("\"processes\": [");
    for (unsigned i = 0; i < n1 && i < n2 && i < n3 && i < list.numProcArrayEntries; i++)
        printf("%s[%u, %llu, %u, %llu, %u, %llu, %u, %llu]", i ? ", " : "", one[i].pid, one[i].usedGpuMemory, two[i].pid, two[i].usedGpuMemory, three[i].pid,
               three[i].usedGpuMemory, details[i].pid, details[i].usedGpuMemory);
    printf("], \"busy\": [");
    for (unsigned i = 0; !sampled && !sampled2 && i < samples && i < info.processSamplesCount; i++)
        printf("%s[%u, %u, %u, %u]", i ? ", " : "", busy[i].pid, busy[i].smUtil, busy_info[i].pid, busy_info[i].smUtil);
    printf("], \"mode\": %d, \"accounts\": %d, \"history\": %d}\n", nvmlDeviceSetComputeMode(device, NVML_COMPUTEMODE_PROHIBITED),
           nvmlDeviceGetAccountingPids(device, &short_of, NULL),
           nvmlDeviceGetSamples(device, NVML_GPU_UTILIZATION_SAMPLES, 0, &(nvmlValueType_t){0}, &short_of, NULL));
    return nvmlShutdown();
}
