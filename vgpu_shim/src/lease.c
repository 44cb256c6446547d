/* See lease.h. The page is mapped for good: who reads an old one sees its heartbeat stop. */
#include "lease.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "ledger.h"
#include "node.h"
#include "util.h"

enum { LONGEST_TURN_NS = 1000000000, SEAT_NS = 250000000 };

static _Atomic(const struct mica_node *) page;
static _Atomic(const struct mica_node_container *) place;
static mica_lock looking; /* guards the next two, and who sets the two above */
static struct stat page_seen;
static const struct mica_node *outdated; /* the one before: nobody reads it any more when the next one comes */
static _Atomic uint64_t own_inode;

/* Where the page is; false when that is too long to be named. */
static bool page_path(char *path, unsigned bytes)
{
    if (mica_limits_managed())
        return snprintf(path, bytes, "/run/mica/node/page") > 0;
    const char *named = secure_getenv("MICA_NODE_FILE");
    if (named && *named)
        return snprintf(path, bytes, "%s", named) < (int)bytes;
    const char *dir = secure_getenv("XDG_RUNTIME_DIR");
    return snprintf(path, bytes, "%s/mica-%u.node", dir && *dir ? dir : "/tmp", (unsigned)getuid()) < (int)bytes;
}

static bool valid(const struct mica_node *node)
{
    return memcmp(node->magic, MICA_NODE_MAGIC, sizeof node->magic) == 0 && node->version == MICA_NODE_VERSION
        && node->containers_max == MICA_NODE_CONTAINERS && node->container_bytes == sizeof(struct mica_node_container)
        && node->size == MICA_NODE_BYTES;
}

/* Ours or root's; where the agent mounts it, any owner's that cannot be written through that mount: in a user namespace root's file is nobody's. */
static bool believed(int fd, const struct stat *seen)
{
    struct statvfs mount;
    return seen->st_uid == 0 || seen->st_uid == getuid() || (mica_limits_managed() && fstatvfs(fd, &mount) == 0 && mount.f_flag & ST_RDONLY);
}

static const struct mica_node *map(const char *path, struct stat *seen)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    void *at = MAP_FAILED;
    if (fstat(fd, seen) == 0 && S_ISREG(seen->st_mode) && believed(fd, seen) && seen->st_size == MICA_NODE_BYTES)
        at = mmap(NULL, MICA_NODE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return NULL;
    if (valid(at))
        return at;
    munmap(at, MICA_NODE_BYTES);
    return NULL;
}

static void find_place(const struct mica_node *node)
{
    uint64_t inode, device;
    const struct mica_node_container *found = NULL;
    if (!mica_ledger_file(&inode, &device))
        return;
    for (unsigned c = 0; c < MICA_NODE_CONTAINERS && !found; c++)
        if (atomic_load_explicit(&node->containers[c].inode, memory_order_acquire) == inode
            && atomic_load_explicit(&node->containers[c].device, memory_order_relaxed) == device)
            found = &node->containers[c];
    atomic_store(&own_inode, inode);
    atomic_store(&place, found);
}

/* Lock held. */
static void look(uint64_t now)
{
    char path[512];
    struct stat st;
    const struct mica_node *node = atomic_load(&page);
    const struct mica_node_container *entry = atomic_load(&place);
    if (node && mica_lease_arbiter(now) && entry && atomic_load(&entry->inode) == atomic_load(&own_inode))
        return;
    if (!page_path(path, sizeof path) || stat(path, &st) != 0)
        return;
    if (!node || st.st_ino != page_seen.st_ino || st.st_dev != page_seen.st_dev) {
        const struct mica_node *fresh = map(path, &st);
        if (!fresh)
            return;
        page_seen = st;
        atomic_store(&place, NULL);
        atomic_store(&page, fresh);
        if (outdated)
            munmap((void *)(uintptr_t)outdated, MICA_NODE_BYTES);
        outdated = node;
        node = fresh;
    }
    find_place(node);
}

void mica_lease_look(uint64_t now)
{
    if (!mica_try(&looking)) /* who holds it looks for all: two at once would unmap what the other reads */
        return;
    look(now);
    mica_release(&looking);
}

void mica_lease_forked(void)
{
    atomic_store(&looking, 0);
}

bool mica_lease_arbiter(uint64_t now)
{
    const struct mica_node *node = atomic_load_explicit(&page, memory_order_acquire);
    if (!node)
        return false;
    uint64_t beat = atomic_load_explicit(&node->heartbeat, memory_order_relaxed);
    return beat + MICA_NODE_STALE_NS > now && beat < now + MICA_NODE_STALE_NS;
}

/* An arbiter that lives and does not know this container yet finds it with its next look at the directory. */
static bool unseated(uint64_t now)
{
    static _Atomic uint64_t since;
    if (atomic_load_explicit(&place, memory_order_acquire) || !mica_lease_arbiter(now)) {
        atomic_store_explicit(&since, 0, memory_order_relaxed);
        return false;
    }
    uint64_t first = 0;
    if (atomic_compare_exchange_strong(&since, &first, now))
        first = now;
    if (now - first > SEAT_NS)
        return false; /* it looks elsewhere, or has no room */
    mica_lease_look(now);
    return !atomic_load(&place);
}

/* NULL: no turns are taken. */
static const struct mica_node_grant *grant_of(int gpu, uint64_t now)
{
    const struct mica_node_container *entry = atomic_load_explicit(&place, memory_order_acquire);
    if (!entry || !mica_lease_arbiter(now)
        || atomic_load_explicit(&entry->inode, memory_order_relaxed) != atomic_load_explicit(&own_inode, memory_order_relaxed))
        return NULL;
    return &entry->gpus[gpu];
}

int64_t mica_lease_rest(int gpu, uint64_t now)
{
    if (MICA_UNLIKELY(!atomic_load_explicit(&place, memory_order_relaxed)) && unseated(now))
        return 0;
    const struct mica_node_grant *grant = grant_of(gpu, now);
    uint64_t until = grant ? atomic_load(&grant->until) : MICA_TURN_OPEN;
    if (until == MICA_TURN_OPEN)
        return MICA_LEASE_OPEN;
    if (until <= now)
        return 0;
    return until - now > LONGEST_TURN_NS ? LONGEST_TURN_NS : (int64_t)(until - now);
}

void mica_lease_wait(int gpu, uint64_t ns)
{
    uint64_t now = mica_now();
    const struct mica_node_grant *grant = grant_of(gpu, now);
    if (!grant) {
        mica_sleep(ns);
        return;
    }
    uint32_t seen = atomic_load(&grant->changes);
    if (mica_lease_rest(gpu, now))
        return;
    const struct timespec limit = {.tv_nsec = (long)ns};
    /* shared: the arbiter wakes. Where a page that cannot be written cannot be waited on, time alone passes. */
    if (syscall(SYS_futex, &grant->changes, FUTEX_WAIT, seen, &limit, NULL, 0) != 0 && errno != ETIMEDOUT && errno != EAGAIN && errno != EINTR)
        mica_sleep(ns);
}
