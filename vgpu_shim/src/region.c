/* The file of the usage region: where it is, and whether what is in it can be used. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif

static uint64_t magic_word(void)
{
    uint64_t word;
    memcpy(&word, MICA_REGION_MAGIC, sizeof word);
    return word;
}

bool mica_ledger_valid(const struct mica_region *region)
{
    return atomic_load(&region->magic) == magic_word() && region->version == MICA_REGION_VERSION && region->gpu_max == MICA_GPUS
        && region->slot_max == MICA_SLOTS && region->gpu_bytes == sizeof(struct mica_region_gpu)
        && region->slot_bytes == sizeof(struct mica_region_slot) && region->size == MICA_REGION_BYTES;
}

bool mica_ledger_slot_alive(int fd, unsigned slot)
{
    const off_t at = (off_t)(offsetof(struct mica_region, slots) + slot * sizeof(struct mica_region_slot));
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

const char *mica_ledger_path(enum mica_source source, char *buffer, size_t bytes, bool *create)
{
    *create = false;
    if (mica_limits_managed())
        return "/run/mica/usage/region";
    const char *named = secure_getenv("MICA_REGION_FILE");
    *create = source == MICA_SOURCE_ENV; /* a limits file has somebody who also makes the region */
    if (named && *named)
        return named;
    const char *dir = secure_getenv("XDG_RUNTIME_DIR"), *slice = secure_getenv("MICA_SLICE");
    if (slice && strspn(slice, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != strlen(slice))
        return NULL;
    snprintf(buffer, bytes, "%s/mica-%u-%s.v%d.region", dir && *dir ? dir : "/tmp", (unsigned)getuid(),
             slice && *slice ? slice : "default", MICA_REGION_VERSION);
    return buffer;
}

/* Whether some process holds a slot: then the file is not ours to make anew, which would kill or free that process. */
static bool in_use(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offsetof(struct mica_region, slots)};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

struct mica_region *mica_region_prepare(int fd, bool create, char *error, size_t error_bytes)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (create && st.st_uid != getuid() && getuid() != 0)) {
        snprintf(error, error_bytes, "is not a regular file of ours");
        return NULL;
    }
    create = create && !in_use(fd);
    if (create && st.st_size != MICA_REGION_BYTES && (ftruncate(fd, 0) != 0 || ftruncate(fd, MICA_REGION_BYTES) != 0)) {
        snprintf(error, error_bytes, "cannot be made %d bytes long (errno %d)", MICA_REGION_BYTES, errno);
        return NULL;
    }
    if (!create && st.st_size != MICA_REGION_BYTES) {
        snprintf(error, error_bytes, "has %lld bytes, not %d", (long long)st.st_size, MICA_REGION_BYTES);
        return NULL;
    }
    void *at = mmap(NULL, MICA_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        snprintf(error, error_bytes, "cannot be mapped (errno %d)", errno);
        return NULL;
    }
    struct mica_region *region = at;
    if (create && !mica_ledger_valid(region))
        memset(at, 0, MICA_REGION_BYTES);
    if (atomic_load(&region->magic) == 0) {
        region->version = MICA_REGION_VERSION;
        region->gpu_max = MICA_GPUS;
        region->slot_max = MICA_SLOTS;
        region->gpu_bytes = sizeof(struct mica_region_gpu);
        region->slot_bytes = sizeof(struct mica_region_slot);
        region->size = MICA_REGION_BYTES;
        atomic_store(&region->magic, magic_word());
    }
    if (!mica_ledger_valid(region)) {
        snprintf(error, error_bytes, "is not a region of version %d", MICA_REGION_VERSION);
        munmap(at, MICA_REGION_BYTES);
        return NULL;
    }
    return region;
}

