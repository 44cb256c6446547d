/* Any text as a limits file: it is refused with a reason, or what comes out is a slice that can be enforced. */
#include <stddef.h>
#include <string.h>

#include "../../../../vgpu_shim/src/limits.h"
#include "must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct mica_limits *limits)
{
    MUST(limits->gpus <= MICA_GPUS);
    MUST(memchr(limits->driver, 0, sizeof limits->driver) && (!limits->driver[0] || limits->driver[0] == '/'));
    MUST(memchr(limits->unknown_key, 0, sizeof limits->unknown_key));
    for (uint32_t g = 0; g < limits->gpus; g++) {
        const struct mica_limit *limit = &limits->gpu[g];
        MUST(limit->uuid[0] && memchr(limit->uuid, 0, sizeof limit->uuid));
        MUST(limit->memory > 0 && limit->memory <= MICA_USED_MASK);
        MUST(limit->cores <= 100);
        MUST(limit->weight >= 1 && limit->weight <= MICA_WEIGHT_MAX);
        MUST(limit->policy <= MICA_POLICY_CONSERVING && limit->priority <= MICA_PRIORITY_LOW);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[4097], again[4097], error[192] = "";
    static struct mica_limits first, second;
    uint64_t bytes;
    size = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = '\0';
    memcpy(again, text, size + 1);
    if (mica_limits_bytes(text, &bytes))
        MUST(bytes <= MICA_USED_MASK);
    bool ok = mica_limits_parse(text, &first, error, sizeof error);
    MUST(memchr(error, 0, sizeof error));
    if (!ok) {
        MUST(error[0]);
        return 0;
    }
    check(&first);
    MUST(mica_limits_parse(again, &second, error, sizeof error) && memcmp(&first, &second, sizeof first) == 0);
    return 0;
}
