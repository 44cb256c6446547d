/* gpu-monitor: what this container's slice is and how it is used, from its limits file and usage region alone: no GPU, no driver.
 * Options and fields are those of Flex:ai's tool of this name, so that scripts written for it keep working. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../src/ledger.h"
#include "../src/util.h"

struct sample {
    uint64_t at;
    uint64_t gpu[MICA_GPUS];
    uint64_t slot[MICA_SLOTS][MICA_GPUS];
};

/* One process, or the slice, over the period. */
struct use {
    unsigned core;
    uint64_t memory;
};

struct view {
    struct mica_limits limits;
    const struct mica_region *region; /* NULL: nothing has used a GPU yet */
    int fd;
    bool json;
};

static const char *open_region(struct view *view, enum mica_source source)
{
    char buffer[512];
    bool create;
    struct stat st;
    const char *path = mica_ledger_path(source, buffer, sizeof buffer, &create);
    view->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (view->fd < 0)
        return create && errno == ENOENT ? NULL : "the usage region cannot be opened";
    if (fstat(view->fd, &st) != 0 || st.st_size != MICA_REGION_BYTES)
        return "the usage region has the wrong size";
    void *at = mmap(NULL, MICA_REGION_BYTES, PROT_READ, MAP_SHARED, view->fd, 0);
    if (at == MAP_FAILED)
        return "the usage region cannot be mapped";
    view->region = at;
    if (atomic_load(&view->region->magic) == 0)
        view->region = NULL;
    else if (!mica_ledger_valid(view->region))
        return "the usage region is of another version";
    return NULL;
}

static bool alive(const struct view *view, unsigned slot)
{
    return view->region && atomic_load(&view->region->slots[slot].state) == MICA_SLOT_TAKEN && mica_ledger_slot_alive(view->fd, slot);
}

static void take(const struct view *view, struct sample *sample)
{
    memset(sample, 0, sizeof *sample);
    sample->at = mica_now();
    for (int g = 0; view->region && g < MICA_GPUS; g++)
        sample->gpu[g] = atomic_load(&view->region->gpus[g].busy);
    for (unsigned s = 0; s < MICA_SLOTS; s++)
        for (int g = 0; alive(view, s) && g < MICA_GPUS; g++)
            sample->slot[s][g] = atomic_load(&view->region->slots[s].busy[g]);
}

static unsigned percent(uint64_t before, uint64_t after, uint64_t passed)
{
    uint64_t value = after > before && passed ? (after - before) * 100 / passed : 0;
    return value > 100 ? 100 : (unsigned)value;
}

static struct use process_use(const struct view *view, unsigned slot, int gpu, const struct sample *a, const struct sample *b)
{
    return (struct use){.core = percent(a->slot[slot][gpu], b->slot[slot][gpu], b->at - a->at),
                        .memory = atomic_load(&view->region->slots[slot].used[gpu]) & MICA_USED_MASK};
}

static struct use slice_use(const struct view *view, int gpu, const struct sample *a, const struct sample *b)
{
    struct use use = {.core = percent(a->gpu[gpu], b->gpu[gpu], b->at - a->at)};
    for (unsigned s = 0; s < MICA_SLOTS; s++) /* the living only: a total may still hold what a killed process had */
        if (alive(view, s))
            use.memory += process_use(view, s, gpu, a, b).memory;
    return use;
}

static void print_gpu(const struct view *view, int gpu, const struct sample *a, const struct sample *b)
{
    const struct mica_limit *limit = &view->limits.gpu[gpu];
    struct use use = slice_use(view, gpu, a, b);
    unsigned quota = limit->cores ? limit->cores : 100;
    const uint64_t mib = 1024 * 1024;
    if (view->json)
        printf("%s{\"device\":%d,\"core\":%u,\"core_quota\":%u,\"memory\":%" PRIu64 ",\"memory_quota\":%" PRIu64 ",\"processes\":[", gpu ? "," : "", gpu,
               use.core, quota, use.memory, limit->memory);
    else
        printf("vGPU %d usage %u%%, limit %u%%, memory usage %6" PRIu64 "/%" PRIu64 "MB\n", gpu, use.core, quota, use.memory / mib, limit->memory / mib);
    const char *comma = "";
    for (unsigned s = 0; s < MICA_SLOTS; s++) {
        if (!alive(view, s))
            continue;
        struct use process = process_use(view, s, gpu, a, b);
        unsigned pid = atomic_load(&view->region->slots[s].pid);
        if (!process.memory && !b->slot[s][gpu])
            continue;
        if (view->json)
            printf("%s{\"pid\":%u,\"core\":%u,\"memory\":%" PRIu64 "}", comma, pid, process.core, process.memory);
        else
            printf("pid %u, core usage %u%%, memory usage %6" PRIu64 "MB\n", pid, process.core, process.memory / mib);
        comma = ",";
    }
    if (view->json)
        printf("]}");
}

static void print(const struct view *view, const struct sample *a, const struct sample *b)
{
    if (view->json)
        printf("{\"type\":\"vGPU\",\"vxpus\":[");
    else
        printf("vGPU num: %u\n", view->limits.gpus);
    for (uint32_t g = 0; g < view->limits.gpus; g++)
        print_gpu(view, (int)g, a, b);
    if (view->json)
        printf("]}\n");
}

static int usage(FILE *out, int status)
{
    fputs("usage: gpu-monitor [-p SECONDS] [-o json|table]\n"
          "Show this container's GPU slices: compute used over the period, memory now.\n"
          "  -p, --period SECONDS   1 to 86400 (default 60)\n"
          "  -o, --output FORMAT    table (default) or json, memory in bytes\n"
          "  -h, --help             this text\n",
          out);
    return status;
}

static bool read_limits(struct view *view, enum mica_source *source, char *error, size_t bytes)
{
    const char *path;
    struct stat st;
    *source = mica_limits_source(&path);
    if (*source == MICA_SOURCE_FILE)
        return mica_limits_read(path, &view->limits, &st, error, bytes);
    if (!mica_limits_from_env(&view->limits, error, bytes))
        return false;
    struct mica_limit each = view->limits.gpu[0];
    const char *failed = open_region(view, *source);
    view->limits.gpus = failed || !view->region ? 0 : atomic_load(&view->region->gpu_count) % (MICA_GPUS + 1);
    for (uint32_t g = 0; g < view->limits.gpus; g++)
        view->limits.gpu[g] = each;
    return true;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"period", 1, NULL, 'p'}, {"output", 1, NULL, 'o'}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    static struct sample before, after;
    struct view view = {.fd = -1};
    long period = 60;
    for (int c; (c = getopt_long(argc, argv, "p:o:h", known, NULL)) != -1;) {
        char *end = NULL;
        if (c == 'h')
            return usage(stdout, 0);
        if (c == 'p')
            period = strtol(optarg, &end, 10);
        if (c == 'o')
            view.json = strcmp(optarg, "json") == 0;
        if (c == '?' || (c == 'p' && (end == optarg || *end || period < 1 || period > 86400))
            || (c == 'o' && !view.json && strcmp(optarg, "table") != 0))
            return usage(stderr, 2);
    }
    if (optind < argc)
        return usage(stderr, 2);
    char error[192];
    enum mica_source source;
    if (!read_limits(&view, &source, error, sizeof error)) {
        fprintf(stderr, "gpu-monitor: limits: %s\n", error);
        return 1;
    }
    const char *failed = view.region ? NULL : open_region(&view, source);
    if (failed) {
        fprintf(stderr, "gpu-monitor: %s\n", failed);
        return 1;
    }
    take(&view, &before);
    if (view.region) /* nothing to watch before the first GPU call */
        mica_sleep((uint64_t)period * 1000000000u);
    take(&view, &after);
    print(&view, &before, &after);
    return 0;
}
