/* See containers.h. */
#include "containers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif

struct container containers[MICA_NODE_CONTAINERS];

static bool header_ok(int fd, uint32_t *gpus)
{
    struct {
        char magic[8];
        uint32_t version, gpu_max, slot_max, gpu_bytes, slot_bytes, gpu_count;
        uint64_t size;
    } head;
    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head || memcmp(head.magic, MICA_REGION_MAGIC, 8) != 0)
        return false;
    *gpus = head.gpu_count > MICA_GPUS ? MICA_GPUS : head.gpu_count;
    return head.version == MICA_REGION_VERSION && head.gpu_max == MICA_GPUS && head.slot_max == MICA_SLOTS
        && head.gpu_bytes == sizeof(struct mica_region_gpu) && head.slot_bytes == sizeof(struct mica_region_slot)
        && head.size == MICA_REGION_BYTES;
}

static void forget(struct container *c)
{
    if (c->fd >= 0)
        close(c->fd);
    memset(c, 0, sizeof *c);
    c->fd = -1;
}

static struct container *find(const char *name)
{
    struct container *unused = NULL;
    for (unsigned i = 0; i < MICA_NODE_CONTAINERS; i++) {
        if (containers[i].fd >= 0 && strcmp(containers[i].name, name) == 0)
            return &containers[i];
        if (containers[i].fd < 0 && !unused)
            unused = &containers[i];
    }
    return unused;
}

/* Open the region at a path if it is one; the path's last part is written by the tenant. */
static int open_region(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && (fstat(fd, st) != 0 || !S_ISREG(st->st_mode) || st->st_size != MICA_REGION_BYTES)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool copy_uuid(char to[48], const char from[48])
{
    bool same = strncmp(to, from, 48) == 0;
    memcpy(to, from, 48);
    to[47] = '\0';
    return !same;
}

static bool take_limits(struct container *c, const struct mica_limits *limits)
{
    bool changed = c->gpus != limits->gpus;
    c->gpus = limits->gpus;
    for (uint32_t g = 0; g < limits->gpus; g++) {
        const struct mica_limit *limit = &limits->gpu[g];
        changed |= copy_uuid(c->uuid[g], limit->uuid);
        const uint32_t cores = limits->enforce ? limit->cores : 0;
        if (c->gpu[g].cores != cores)
            c->gpu[g].credit = 0; /* what it was behind or ahead by was at another rate */
        c->gpu[g].cores = cores;
        c->gpu[g].weight = limit->weight;
        c->gpu[g].policy = limit->policy;
        c->gpu[g].priority = limit->priority;
    }
    return changed;
}

/* The file is the agent's, so it is believed. */
static bool read_limits(struct container *c, const char *path)
{
    struct stat st;
    struct mica_limits limits;
    char error[192];
    if (stat(path, &st) != 0 || (st.st_ino == c->limits_seen.st_ino && st.st_size == c->limits_seen.st_size
                                 && st.st_mtim.tv_sec == c->limits_seen.st_mtim.tv_sec && st.st_mtim.tv_nsec == c->limits_seen.st_mtim.tv_nsec))
        return false;
    if (!mica_limits_read(path, &limits, &st, error, sizeof error))
        return false;
    c->limits_seen = st;
    return take_limits(c, &limits);
}

/* Stand-alone: nobody else wrote the limits down, and the region is this user's own. */
static bool limits_of_region(struct container *c, uint32_t gpus)
{
    struct mica_limits limits = {.enforce = true, .gpus = gpus};
    for (uint32_t g = 0; g < gpus; g++) {
        struct mica_region_gpu record;
        if (pread(c->fd, &record, sizeof record, (off_t)(offsetof(struct mica_region, gpus) + g * sizeof record)) != (ssize_t)sizeof record)
            return false;
        struct mica_limit *limit = &limits.gpu[g];
        memcpy(limit->uuid, record.uuid, sizeof limit->uuid);
        limit->cores = record.cores > 100 ? 100 : record.cores;
        limit->weight = record.weight < 1 || record.weight > MICA_WEIGHT_MAX ? MICA_WEIGHT_DEFAULT : record.weight;
        limit->policy = record.policy;
        limit->priority = record.priority;
    }
    return take_limits(c, &limits);
}

/* region: path of the region; limits: of the limits file, NULL where the region itself says. */
static bool visit(const char *name, const char *region, const char *limits)
{
    struct stat st;
    uint32_t gpus;
    bool changed = false;
    struct container *c = find(name);
    int fd = c ? open_region(region, &st) : -1;
    if (fd < 0)
        return false;
    if (!header_ok(fd, &gpus)) { /* nothing has used a GPU yet, or scribble: who was here is missed by the scan, once */
        close(fd);
        return false;
    }
    if (c->fd >= 0 && c->inode == (uint64_t)st.st_ino && c->device == (uint64_t)st.st_dev) {
        close(fd);
    } else { /* new, or made anew for a container that started again */
        changed = true;
        forget(c);
        c->fd = fd;
        c->inode = (uint64_t)st.st_ino;
        c->device = (uint64_t)st.st_dev;
        snprintf(c->name, sizeof c->name, "%s", name);
    }
    c->seen = true;
    changed |= limits ? read_limits(c, limits) : limits_of_region(c, gpus);
    containers_probe(c);
    return changed;
}

static bool visit_slice(const char *dir, const char *key)
{
    char region[4096], limits[4096];
    if (key[0] == '.' || snprintf(region, sizeof region, "%s/%s/usage/region", dir, key) >= (int)sizeof region
        || snprintf(limits, sizeof limits, "%s/%s/limits/limits", dir, key) >= (int)sizeof limits)
        return false;
    return visit(key, region, limits);
}

static bool visit_alone(const char *dir, const char *name)
{
    char region[4096], prefix[32];
    size_t length = strlen(name);
    int start = snprintf(prefix, sizeof prefix, "mica-%u-", (unsigned)getuid());
    if (strncmp(name, prefix, (size_t)start) != 0 || length < 7 || strcmp(name + length - 7, ".region") != 0
        || snprintf(region, sizeof region, "%s/%s", dir, name) >= (int)sizeof region)
        return false;
    return visit(name, region, NULL);
}

static bool walk(const char *dir, bool (*each)(const char *dir, const char *name))
{
    bool changed = false;
    DIR *open = dir ? opendir(dir) : NULL;
    for (struct dirent *at; open && (at = readdir(open));)
        if (strlen(at->d_name) < sizeof containers[0].name)
            changed |= each(dir, at->d_name);
    if (open)
        closedir(open);
    return changed;
}

bool containers_scan(const struct source *source)
{
    static bool started;
    for (unsigned i = 0; i < MICA_NODE_CONTAINERS; i++) {
        if (!started)
            containers[i].fd = -1;
        containers[i].seen = false;
    }
    started = true;
    bool changed = walk(source->slices, visit_slice);
    changed |= walk(source->alone, visit_alone);
    for (unsigned i = 0; i < MICA_NODE_CONTAINERS; i++)
        if (containers[i].fd >= 0 && !containers[i].seen) {
            forget(&containers[i]);
            changed = true;
        }
    return changed;
}

void containers_read(struct container *c, unsigned gpu)
{
    struct mica_region_gpu record;
    struct contender *to = &c->gpu[gpu];
    const size_t from = offsetof(struct mica_region_gpu, balance), to_end = offsetof(struct mica_region_gpu, inflight_until) + 8;
    const off_t at = (off_t)(offsetof(struct mica_region, gpus) + gpu * sizeof record + from);
    if (pread(c->fd, (char *)&record + from, to_end - from, at) != (ssize_t)(to_end - from)) {
        to->alive = false; /* truncated: who did it cannot go on either */
        return;
    }
    to->waiting_at = record.waiting_at;
    to->active_at = record.active_at;
    to->inflight_until = record.inflight_until;
    to->busy = record.busy;
    to->balance = record.balance;
    to->batches = record.batches & MICA_BATCHES_MASK;
}

void containers_probe(struct container *c)
{
    const off_t from = (off_t)offsetof(struct mica_region, slots);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = MICA_REGION_BYTES - from};
    const bool alive = fcntl(c->fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
    for (unsigned g = 0; g < MICA_GPUS; g++)
        c->gpu[g].alive = alive;
}
