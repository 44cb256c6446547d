/* gpu-probe: a driver-API program that says, as one line of JSON, what it can see and get on a GPU. Used inside pods by tests and the demo. */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_min.h"

struct options {
    int device;
    bool fill;
    const char *family;
    uint64_t allocate, step;
    double wait_s, spin_s, hold_s;
    uint64_t kernel_us, long_us, long_permille, pause_us;
    int streams, depth, graph;
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int fail(const char *what, CUresult error)
{
    const char *name = NULL;
    (void)cuGetErrorName(error, &name);
    printf("{\"failed\":\"%s\",\"error\":%d,\"error_name\":\"%s\"}\n", what, error, name ? name : "?");
    fflush(stdout);
    return 1;
}

static CUresult allocate_vmm(size_t bytes, CUdevice device)
{
    CUmemProp prop = {.type = 1, .location = {MICA_LOCATION_DEVICE, device}};
    CUmemHandle handle;
    CUdeviceptr at;
    CUresult result = cuMemCreate(&handle, bytes, &prop, 0);
    if (result)
        return result;
    result = cuMemAddressReserve(&at, bytes, 0, 0, 0);
    if (!result)
        result = cuMemMap(at, bytes, 0, handle, 0);
    CUresult released = cuMemRelease(handle); /* the mapping keeps the memory */
    return result ? result : released;
}

static CUresult allocate(const char *family, size_t bytes, CUdevice device)
{
    CUdeviceptr pointer;
    size_t pitch;
    if (strcmp(family, "async") == 0)
        return cuMemAllocAsync(&pointer, bytes, NULL);
    if (strcmp(family, "managed") == 0)
        return cuMemAllocManaged(&pointer, bytes, 1);
    if (strcmp(family, "pitch") == 0)
        return cuMemAllocPitch_v2(&pointer, &pitch, 512, bytes / 512, 4);
    if (strcmp(family, "vmm") == 0)
        return allocate_vmm(bytes, device);
    return cuMemAlloc_v2(&pointer, bytes);
}

static int fill(const struct options *options, CUdevice device)
{
    uint64_t accepted = 0;
    CUresult error = 0;
    while (!(error = allocate(options->family, options->step, device)))
        accepted += options->step;
    printf(",\"accepted\":%" PRIu64 ",\"error\":%d", accepted, error);
    return error == MICA_CUDA_OUT_OF_MEMORY ? 0 : 1;
}

static void nap(double seconds)
{
    struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&ts, NULL);
}

/* What is launched: one kernel, or a chain of them as a graph. */
struct work {
    CUfunction function;
    uint64_t arguments[3]; /* short, long, permille of long; `spin` reads the first only */
    void *params[3];
    CUgraphExec graph;
};

static CUresult make_graph(struct work *work, int nodes)
{
    CUgraph graph;
    CUgraphNode last = NULL;
    const CUkernelNodeParams params = {work->function, 1, 1, 1, 32, 1, 1, 0, work->params, NULL};
    CUresult error = cuGraphCreate(&graph, 0);
    for (int i = 0; !error && i < nodes; i++)
        error = cuGraphAddKernelNode_v2(&last, graph, last ? &last : NULL, last != NULL, &params);
    return error ? error : cuGraphInstantiateWithFlags(&work->graph, graph, 0);
}

static CUresult make_work(const struct options *options, struct work *work)
{
    CUmodule module;
    *work = (struct work){.arguments = {options->kernel_us * 1000, options->long_us * 1000, options->long_permille}};
    for (int i = 0; i < 3; i++)
        work->params[i] = &work->arguments[i];
    CUresult error = cuModuleLoadData(&module, "gpu-probe");
    if (!error)
        error = cuModuleGetFunction(&work->function, module, options->long_us ? "bimodal" : "spin");
    return error || !options->graph ? error : make_graph(work, options->graph);
}

static int spin(const struct options *options)
{
    struct work work;
    CUstream streams[16];
    CUresult error = make_work(options, &work);
    for (int i = 0; !error && i < options->streams; i++)
        error = cuStreamCreate(&streams[i], 1);
    uint64_t launches = 0;
    double start = now_s(), end = start + options->spin_s;
    while (!error && now_s() < end) {
        CUstream stream = streams[launches % (unsigned)options->streams];
        error = work.graph ? cuGraphLaunch(work.graph, stream) : cuLaunchKernel(work.function, 1, 1, 1, 32, 1, 1, 0, stream, work.params, NULL);
        if (error || !options->depth || ++launches % (unsigned)options->depth) {
            launches += !error && !options->depth;
            continue;
        }
        error = cuCtxSynchronize(); /* a short queue, as an inference engine keeps it */
        if (options->pause_us)
            nap((double)options->pause_us * 1e-6);
    }
    if (!error)
        error = cuCtxSynchronize();
    double took = now_s() - start, share = (double)options->long_permille * 1e-3;
    double each = (double)options->kernel_us * (1 - share) + (double)options->long_us * share; /* on average */
    double busy = (double)launches * each * 1e-6 * (options->graph ? options->graph : 1);
    printf(",\"launches\":%" PRIu64 ",\"kernel_us\":%" PRIu64 ",\"seconds\":%.6f,\"busy_share\":%.6f,\"spin_error\":%d", launches,
           options->kernel_us, took, busy / took, error);
    return error != 0;
}

static int usage(const char *program)
{
    fprintf(stderr,
            "usage: %s [--device N] [--alloc BYTES] [--fill] [--family linear|async|managed|pitch|vmm] [--step BYTES]\n"
            "          [--spin SECONDS] [--kernel-us N] [--streams N] [--depth N] [--long-us N --long-permille N] [--graph N]\n"
            "          [--pause-us N] [--wait SECONDS] [--hold SECONDS]\n"
            "Prints one line of JSON. --alloc and --fill allocate (in steps, default 2 MiB, until refused); --spin launches kernels\n"
            "of N microseconds (default 1000) and reports the share of time they took; --wait sleeps first, --hold keeps the memory for that long.\n",
            program);
    return 2;
}

static int parse(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {{"device", 1, NULL, 'd'},    {"alloc", 1, NULL, 'a'},  {"fill", 0, NULL, 'f'},
                                          {"family", 1, NULL, 'y'},    {"step", 1, NULL, 's'},   {"spin", 1, NULL, 'p'},
                                          {"kernel-us", 1, NULL, 'k'}, {"streams", 1, NULL, 'n'}, {"hold", 1, NULL, 'h'},
                                          {"depth", 1, NULL, 'D'},     {"long-us", 1, NULL, 'l'}, {"long-permille", 1, NULL, 'L'},
                                          {"graph", 1, NULL, 'g'},     {"pause-us", 1, NULL, 'P'},   {"wait", 1, NULL, 'w'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'd': options->device = atoi(optarg); break;
        case 'a': options->allocate = strtoull(optarg, NULL, 10); break;
        case 'f': options->fill = true; break;
        case 'y': options->family = optarg; break;
        case 's': options->step = strtoull(optarg, NULL, 10); break;
        case 'p': options->spin_s = atof(optarg); break;
        case 'k': options->kernel_us = strtoull(optarg, NULL, 10); break;
        case 'n': options->streams = atoi(optarg); break;
        case 'D': options->depth = atoi(optarg); break;
        case 'l': options->long_us = strtoull(optarg, NULL, 10); break;
        case 'L': options->long_permille = strtoull(optarg, NULL, 10); break;
        case 'g': options->graph = atoi(optarg); break;
        case 'P': options->pause_us = strtoull(optarg, NULL, 10); break;
        case 'w': options->wait_s = atof(optarg); break;
        case 'h': options->hold_s = atof(optarg); break;
        default: return usage(argv[0]);
        }
    }
    if (optind < argc || options->streams < 1 || options->streams > 16 || !options->step || !options->kernel_us || options->depth < 0
        || options->graph < 0 || options->long_permille > 1000 || (options->long_permille && !options->long_us))
        return usage(argv[0]);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {.family = "linear", .step = UINT64_C(2) << 20, .kernel_us = 1000, .streams = 1, .depth = 16};
    int status = parse(&options, argc, argv);
    if (status)
        return status;
    if (options.wait_s > 0)
        nap(options.wait_s);
    int count = 0;
    CUdevice device;
    CUcontext context;
    size_t device_total = 0, total = 0, free_bytes = 0;
    char name[128] = "";
    CUresult error = cuInit(0);
    if (error)
        return fail("cuInit", error);
    if ((error = cuDeviceGetCount(&count)) || (error = cuDeviceGet(&device, options.device)) || (error = cuDeviceGetName(name, sizeof name, device))
        || (error = cuDeviceTotalMem_v2(&device_total, device)))
        return fail("device", error);
    if ((error = cuDevicePrimaryCtxRetain(&context, device)) || (error = cuCtxSetCurrent(context)))
        return fail("context", error);
    if ((error = cuMemGetInfo_v2(&free_bytes, &total)))
        return fail("cuMemGetInfo", error);
    printf("{\"devices\":%d,\"name\":\"%s\",\"device_total\":%zu,\"total\":%zu,\"free\":%zu", count, name, device_total, total, free_bytes);
    if (options.allocate) {
        error = allocate(options.family, options.allocate, device);
        printf(",\"alloc\":%" PRIu64 ",\"alloc_error\":%d", options.allocate, error);
        status |= error != 0;
    }
    if (options.fill)
        status |= fill(&options, device);
    if (options.spin_s > 0)
        status |= spin(&options);
    if ((error = cuMemGetInfo_v2(&free_bytes, &total)))
        status = 1;
    printf(",\"free_after\":%zu}\n", free_bytes);
    fflush(stdout);
    if (options.hold_s > 0)
        nap(options.hold_s);
    return status;
}
