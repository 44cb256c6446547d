/* A usage region into which a tenant writes anything, before it is attached or while it is in use: no crash, and nobody gets more than the limit.
 * First byte: even = written while in use; odd = written before a new attach, bit 1 = the file is cut short, too. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../../vgpu_shim/src/ledger.h"
#include "must.h"
#include "scribble.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LIMIT = 1 << 30 };
static uint8_t *file, *clean; /* the harness's own mapping, and what a region in use looks like */
static int fd = -1;

static void attach(bool *ok)
{
    char error[512] = "";
    mica_ledger_forked(); /* forget, so that it is attached anew */
    *ok = mica_ledger_attach(MICA_SOURCE_FILE, error, sizeof error);
    MUST(*ok ? mica_region && mica_ledger_valid(mica_region) : !mica_region && error[0]);
}

static void begin(void)
{
    static char path[] = "mica-fuzz-XXXXXX"; /* in the current folder */
    bool ok;
    fd = mkstemp(path);
    MUST(fd >= 0 && ftruncate(fd, MICA_REGION_BYTES) == 0 && !setenv("MICA_REGION_FILE", path, 1));
    file = mmap(NULL, MICA_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    clean = malloc(MICA_REGION_BYTES);
    MUST(file != MAP_FAILED && clean);
    attach(&ok);
    MUST(ok);
    for (int g = 0; g < 2; g++)
        mica_region->gpus[g].uuid[0] = 'G';
    memcpy(clean, file, MICA_REGION_BYTES);
}

static void use(void)
{
    static const uint64_t amounts[] = {1, 4096, LIMIT, LIMIT + 1, UINT64_MAX, MICA_USED_MASK};
    for (int g = 0; g < 2; g++) {
        for (size_t i = 0; i < sizeof amounts / sizeof amounts[0]; i++) {
            if (!mica_ledger_charge(g, amounts[i], LIMIT, true))
                continue;
            MUST(amounts[i] <= LIMIT && mica_ledger_used(g) <= LIMIT);
            mica_ledger_release(g, amounts[i]);
        }
    }
    mica_ledger_reap();
}

static void restore(const uint8_t *data, size_t size)
{
    scribble(data, size, file, clean, MICA_REGION_BYTES);
    memcpy(file, clean, 24576); /* what the limiter itself wrote is here */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool ok;
    if (!file)
        begin();
    if (!size)
        return 0;
    const uint8_t mode = data[0];
    if (mode & 1) {
        bool cut = mode & 2;
        scribble(data + 1, size - 1, file, NULL, MICA_REGION_BYTES);
        MUST(!cut || ftruncate(fd, mode * 4096) == 0);
        attach(&ok);
        MUST(!(ok && cut));
        if (ok)
            use();
        MUST(ftruncate(fd, MICA_REGION_BYTES) == 0);
        restore(data + 1, size - 1);
        attach(&ok);
        MUST(ok);
    } else {
        scribble(data + 1, size - 1, file, NULL, MICA_REGION_BYTES);
        use();
    }
    restore(data + 1, size - 1);
    return 0;
}
