/* See monitor.h. The region belongs to the container's processes, which may write anything into it and change its length at any time. */
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../src/util.h"

static const char *open_region(struct reader *reader, enum mica_source source)
{
    char buffer[512];
    bool create;
    const char *path = mica_ledger_path(source, buffer, sizeof buffer, &create);
    reader->fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (reader->fd >= 0 || (create && errno == ENOENT))
        return NULL;
    return "the usage region cannot be opened";
}

/* By read, so that a file that is cut short meanwhile is an error here and not a signal. */
static bool copy(int fd, void *to, size_t bytes)
{
    size_t got = 0;
    while (got < bytes) {
        ssize_t n = pread(fd, (char *)to + got, bytes - got, (off_t)got);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static const char *take(struct reader *reader, struct sample *sample)
{
    struct stat st;
    sample->there = false;
    if (reader->fd < 0)
        return NULL;
    if (fstat(reader->fd, &st) != 0 || st.st_size != MICA_REGION_BYTES || !copy(reader->fd, &sample->region, sizeof sample->region))
        return "the usage region has the wrong size";
    if (atomic_load(&sample->region.magic) == 0)
        return NULL;
    if (!mica_ledger_valid(&sample->region))
        return "the usage region is of another version";
    sample->there = true;
    for (unsigned s = 0; s < MICA_SLOTS; s++)
        sample->alive[s] = atomic_load(&sample->region.slots[s].state) == MICA_SLOT_TAKEN && mica_ledger_slot_alive(reader->fd, s);
    return NULL;
}

/* Stand-alone: one limit for every device, and how many there are is known when a program has used one. */
static void spread(struct mica_limits *limits, const struct sample *sample)
{
    const struct mica_limit each = limits->gpu[0];
    uint32_t count = sample->there ? atomic_load(&sample->region.gpu_count) : 0;
    limits->gpus = count > MICA_GPUS ? MICA_GPUS : count;
    for (uint32_t g = 0; g < limits->gpus; g++) {
        limits->gpu[g] = each;
        memcpy(limits->gpu[g].uuid, sample->region.gpus[g].uuid, sizeof limits->gpu[g].uuid);
        limits->gpu[g].uuid[sizeof limits->gpu[g].uuid - 1] = '\0';
    }
}

bool monitor_read(struct reader *reader, struct sample *sample, char *error, size_t error_bytes)
{
    const char *path, *failed = NULL;
    char reason[192] = "";
    struct stat st;
    enum mica_source source = mica_limits_source(&path);
    bool ok = source == MICA_SOURCE_FILE ? mica_limits_read(path, &reader->limits, &st, reason, sizeof reason)
                                         : mica_limits_from_env(&reader->limits, reason, sizeof reason);
    if (!ok) {
        snprintf(error, error_bytes, "limits: %s", reason);
        return false;
    }
    if (reader->fd < 0)
        failed = open_region(reader, source);
    sample->at = mica_now();
    if (!failed)
        failed = take(reader, sample);
    if (failed)
        snprintf(error, error_bytes, "%s", failed);
    else if (source == MICA_SOURCE_ENV)
        spread(&reader->limits, sample);
    return !failed;
}
