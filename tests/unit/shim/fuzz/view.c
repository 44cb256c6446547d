/* A region into which a tenant wrote anything, as gpu-monitor shows it: no crash, percentages are at most 100, and nothing but printable letters. */
#include <stdlib.h>

#include "../../../../vgpu_shim/tools/monitor.h"
#include "must.h"
#include "scribble.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sample before, after, clean;
static const struct mica_limits limits = {.gpus = 2, .gpu = {{.uuid = "GPU-a", .memory = 1 << 30, .cores = 30}, {.uuid = "GPU-b", .memory = 5}}};

static void prepare(void)
{
    clean.there = true;
    for (int s = 0; s < 4; s++)
        clean.alive[s] = true;
    before = after = clean;
    after.at = 1000000000;
}

static void check(const char *text, size_t bytes)
{
    MUST(bytes > 0 && text[bytes - 1] == '\n');
    for (size_t i = 0; i < bytes; i++)
        MUST(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char *text;
    static size_t bytes;
    static FILE *out;
    if (!clean.there)
        prepare();
    if (!out)
        MUST((out = open_memstream(&text, &bytes)));
    const size_t half = size / 2;
    scribble(data, half, (uint8_t *)&before.region, NULL, sizeof before.region);
    scribble(data + half, size - half, (uint8_t *)&after.region, NULL, sizeof after.region);
    for (int json = 0; json < 2; json++) {
        rewind(out);
        monitor_print(out, &(struct style){.json = json, .details = true}, &limits, &before, &after);
        MUST(fflush(out) == 0);
        check(text, bytes);
        for (const char *at = text; !json && (at = strchr(at, '%')) && at < text + bytes; at++)
            MUST(at - text < 4 || at[-4] < '2' || at[-4] > '9' || at[-3] < '0' || at[-3] > '9');
    }
    scribble(data, half, (uint8_t *)&before.region, (const uint8_t *)&clean.region, sizeof before.region);
    scribble(data + half, size - half, (uint8_t *)&after.region, (const uint8_t *)&clean.region, sizeof after.region);
    return 0;
}
