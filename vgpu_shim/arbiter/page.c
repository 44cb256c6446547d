/* See page.h. */
#include "page.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../src/util.h"

enum { LOCK_TRIES = 30, LOCK_PAUSE_NS = 100000000 }; /* the one before us may be about to end */
static struct mica_node *node;

static bool fail(const char *path, const char *what)
{
    fprintf(stderr, "mica-arbiter: %s: %s (%s)\n", path, what, strerror(errno));
    return false;
}

static bool be_the_only_one(const char *path)
{
    char name[PATH_MAX];
    if (snprintf(name, sizeof name, "%s.lock", path) >= (int)sizeof name)
        return fail(path, "too long");
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); /* kept open: the lock lives as long as we do */
    if (fd < 0)
        return fail(name, "cannot be opened");
    for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (tries == LOCK_TRIES)
            return fail(path, "another arbiter keeps this page");
        mica_sleep(LOCK_PAUSE_NS);
    }
    return true;
}

bool page_alive(const char *path)
{
    struct mica_node head = {.version = 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return fail(path, "cannot be read");
    const size_t bytes = offsetof(struct mica_node, reserved);
    const bool read = pread(fd, &head, bytes, 0) == (ssize_t)bytes && memcmp(head.magic, MICA_NODE_MAGIC, sizeof head.magic) == 0;
    close(fd);
    const uint64_t now = mica_now(), beat = atomic_load(&head.heartbeat);
    return read && beat + MICA_NODE_STALE_NS > now && beat < now + MICA_NODE_STALE_NS;
}

/* The directory may be ours to make: the node agent starts beside us. */
static void make_parent(const char *path)
{
    char dir[PATH_MAX];
    const char *end = strrchr(path, '/');
    if (end && end != path && snprintf(dir, sizeof dir, "%.*s", (int)(end - path), path) < (int)sizeof dir)
        (void)mkdir(dir, 0755);
}

bool page_open(const char *path)
{
    char fresh[PATH_MAX];
    make_parent(path);
    if (!be_the_only_one(path))
        return false;
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh)
        return fail(path, "too long");
    (void)unlink(fresh);
    int fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0 || fchmod(fd, 0644) != 0 || ftruncate(fd, MICA_NODE_BYTES) != 0)
        return fail(fresh, "cannot be made");
    void *at = mmap(NULL, MICA_NODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return fail(fresh, "cannot be mapped");
    node = at;
    node->version = MICA_NODE_VERSION;
    node->containers_max = MICA_NODE_CONTAINERS;
    node->container_bytes = sizeof(struct mica_node_container);
    node->size = MICA_NODE_BYTES;
    node->started_at = mica_now();
    memcpy(node->magic, MICA_NODE_MAGIC, sizeof node->magic);
    return rename(fresh, path) == 0 || fail(path, "cannot be put in place");
}

void page_beat(uint64_t now)
{
    atomic_store_explicit(&node->heartbeat, now, memory_order_release);
}

void page_name(unsigned place, uint64_t inode, uint64_t device)
{
    struct mica_node_container *entry = &node->containers[place];
    if (atomic_load(&entry->inode) == inode && atomic_load(&entry->device) == device)
        return;
    atomic_store(&entry->inode, 0);
    for (unsigned g = 0; g < MICA_GPUS; g++)
        atomic_store(&entry->gpus[g].until, 0);
    atomic_store(&entry->device, device);
    atomic_store(&entry->inode, inode);
}

void page_grant(unsigned place, unsigned gpu, const struct contender *answer)
{
    struct mica_node_grant *grant = &node->containers[place].gpus[gpu];
    uint64_t old = atomic_load(&grant->until);
    if (old == answer->until)
        return;
    atomic_store(&grant->epoch, answer->epoch);
    atomic_store(&grant->until, answer->until);
    if (answer->until == 0 || old > answer->until)
        return;
    atomic_fetch_add(&grant->changes, 1);
    if (old == 0)
        syscall(SYS_futex, &grant->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void page_leave(void)
{
    page_beat(0);
    for (unsigned c = 0; c < MICA_NODE_CONTAINERS; c++)
        for (unsigned g = 0; g < MICA_GPUS; g++) {
            struct mica_node_grant *grant = &node->containers[c].gpus[g];
            if (atomic_exchange(&grant->until, MICA_TURN_OPEN) != MICA_TURN_OPEN) {
                atomic_fetch_add(&grant->changes, 1);
                syscall(SYS_futex, &grant->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
            }
        }
}
