/* See monitor.h. All figures come from memory that tenants write, so each is bounded before it is used and every text is checked. */
#include "monitor.h"

#include <inttypes.h>

static const uint64_t MIB = 1024 * 1024;

/* One process, or the slice, over the period. Bytes: memory is all, of which context and module. */
struct use {
    unsigned core; /* percent */
    uint64_t memory, context, module;
};

static unsigned percent(uint64_t before, uint64_t after, uint64_t passed)
{
    uint64_t used = after > before ? after - before : 0;
    if (!passed || used >= passed)
        return passed && used ? 100 : 0;
    return (unsigned)(used > UINT64_MAX / 100 ? used / (passed / 100 ? passed / 100 : 1) : used * 100 / passed);
}

static uint64_t at_most(uint64_t value, uint64_t most)
{
    return value < most ? value : most;
}

/* True when the slot is of the same process in both samples. */
static bool stayed(const struct sample *before, const struct sample *after, unsigned slot)
{
    return before->there && before->alive[slot]
        && atomic_load(&before->region.slots[slot].generation) == atomic_load(&after->region.slots[slot].generation);
}

static struct use process_use(const struct sample *before, const struct sample *after, unsigned slot, int gpu)
{
    const struct mica_region_slot *now = &after->region.slots[slot];
    uint64_t start = stayed(before, after, slot) ? atomic_load(&before->region.slots[slot].busy[gpu]) : 0;
    struct use use = {.core = percent(start, atomic_load(&now->busy[gpu]), after->at - before->at),
                      .memory = atomic_load(&now->used[gpu]) & MICA_USED_MASK};
    use.context = at_most(atomic_load(&now->context[gpu]), use.memory);
    use.module = at_most(atomic_load(&now->module[gpu]), use.memory - use.context);
    return use;
}

/* The living only: a total may still hold what a killed process had. */
static struct use slice_use(const struct sample *before, const struct sample *after, int gpu)
{
    struct use sum = {0};
    if (!after->there)
        return sum;
    for (unsigned s = 0; s < MICA_SLOTS; s++) {
        if (!after->alive[s])
            continue;
        struct use use = process_use(before, after, s, gpu);
        sum.memory += use.memory;
        sum.context += use.context;
        sum.module += use.module;
    }
    uint64_t start = before->there ? atomic_load(&before->region.gpus[gpu].busy) : 0;
    sum.core = percent(start, atomic_load(&after->region.gpus[gpu].busy), after->at - before->at);
    return sum;
}

static unsigned throttled(const struct sample *before, const struct sample *after, int gpu)
{
    uint64_t start = before->there ? atomic_load(&before->region.gpus[gpu].throttled) : 0;
    return after->there ? percent(start, atomic_load(&after->region.gpus[gpu].throttled), after->at - before->at) : 0;
}

static uint64_t denials(const struct sample *sample, int gpu)
{
    return sample->there ? atomic_load(&sample->region.gpus[gpu].denials) : 0;
}

/* Text that tenants wrote: letters that mean something to JSON or to a terminal become question marks. */
static void put_text(FILE *out, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes && text[i]; i++)
        putc(text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\' ? '?' : text[i], out);
}

static void put_split(FILE *out, const struct use *use)
{
    fprintf(out, ", \"memory_context\": %" PRIu64 ", \"memory_module\": %" PRIu64 ", \"memory_data\": %" PRIu64, use->context, use->module,
            use->memory - use->context - use->module);
}

static void json_process(FILE *out, const struct mica_region_slot *slot, const struct use *use)
{
    fprintf(out, "{\"pid\": %" PRIu32 ", \"core\": %u, \"memory\": %" PRIu64, atomic_load(&slot->pid), use->core, use->memory);
    put_split(out, use);
    fputs(", \"program\": \"", out);
    put_text(out, slot->program, sizeof slot->program);
    fputs("\"}", out);
}

static void table_process(FILE *out, bool details, const struct mica_region_slot *slot, const struct use *use)
{
    fprintf(out, "pid %" PRIu32 ", core usage %02u%%, memory usage %6" PRIu64 "MB\n", atomic_load(&slot->pid), use->core, use->memory / MIB);
    if (!details)
        return;
    fputs("  program ", out);
    put_text(out, slot->program, sizeof slot->program);
    fprintf(out, ", context %" PRIu64 "MB, module %" PRIu64 "MB, data %" PRIu64 "MB\n", use->context / MIB, use->module / MIB,
            (use->memory - use->context - use->module) / MIB);
}

static void print_processes(FILE *out, const struct style *style, const struct sample *before, const struct sample *after, int gpu)
{
    const char *comma = "";
    for (unsigned s = 0; after->there && s < MICA_SLOTS; s++) {
        const struct mica_region_slot *slot = &after->region.slots[s];
        if (!after->alive[s] || (!(atomic_load(&slot->used[gpu]) & MICA_USED_MASK) && !atomic_load(&slot->busy[gpu])))
            continue;
        struct use use = process_use(before, after, s, gpu);
        if (style->json) {
            fputs(comma, out);
            json_process(out, slot, &use);
        } else {
            table_process(out, style->details, slot, &use);
        }
        comma = ",\n";
    }
}

static void json_gpu(FILE *out, const struct mica_limit *limit, int gpu, const struct sample *before, const struct sample *after)
{
    struct use use = slice_use(before, after, gpu);
    fprintf(out, "%s{\"device\": %d, \"core\": %u, \"core_quota\": %u, \"memory\": %" PRIu64 ", \"memory_quota\": %" PRIu64 ",\n\"processes\": [",
            gpu ? ",\n" : "", gpu, use.core, limit->cores ? limit->cores : 100, use.memory, limit->memory);
    print_processes(out, &(struct style){.json = true}, before, after, gpu);
    fputs("]", out);
    put_split(out, &use);
    fprintf(out, ", \"throttled\": %u, \"denials\": %" PRIu64 ", \"uuid\": \"", throttled(before, after, gpu), denials(after, gpu));
    put_text(out, limit->uuid, sizeof limit->uuid);
    fputs("\"}", out);
}

static void table_gpu(FILE *out, bool details, const struct mica_limit *limit, int gpu, const struct sample *before, const struct sample *after)
{
    struct use use = slice_use(before, after, gpu);
    fprintf(out, "vGPU %d usage %02u%%, limit %02u%%, memory usage %6" PRIu64 "/%" PRIu64 "MB\n", gpu, use.core, limit->cores ? limit->cores : 100,
            use.memory / MIB, limit->memory / MIB);
    if (details)
        fprintf(out, "  context %" PRIu64 "MB, module %" PRIu64 "MB, data %" PRIu64 "MB, throttled %u%%, denials %" PRIu64 "\n", use.context / MIB,
                use.module / MIB, (use.memory - use.context - use.module) / MIB, throttled(before, after, gpu), denials(after, gpu));
    print_processes(out, &(struct style){.details = details}, before, after, gpu);
}

void monitor_print(FILE *out, const struct style *style, const struct mica_limits *limits, const struct sample *before, const struct sample *after)
{
    if (style->json)
        fputs("{\"type\": \"vGPU\", \"vxpus\": [\n", out);
    else
        fprintf(out, "vGPU num: %u\n", limits->gpus);
    for (uint32_t g = 0; g < limits->gpus && g < MICA_GPUS; g++) {
        if (style->json)
            json_gpu(out, &limits->gpu[g], (int)g, before, after);
        else
            table_gpu(out, style->details, &limits->gpu[g], (int)g, before, after);
    }
    if (style->json)
        fputs("\n]}\n", out);
}
