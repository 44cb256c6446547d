/* See ledger.h. Order of writes: a charge raises the total first and its slot second, a release lowers the slot first, so a process killed
 * in between leaves the total too high, never too low; `pending` says that a slot may be in between, and the recount repairs it. */
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crash.h"
#include "util.h"
#include "work.h"

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

struct mica_region *mica_region;
static char region_path[512];
static struct stat region_seen; /* the file, to know it again */
static int region_fd = -1;
static int own_slot = -1;
static struct mica_region_slot *mine;
static uint32_t own_generation;
/* What the slot says, out of reach of others; the first as what was charged and what of that was released. */
static _Atomic uint64_t own_charged[MICA_GPUS], own_released[MICA_GPUS], own_overhead[MICA_GPUS][2];
_Atomic uint64_t mica_activity;
static mica_lock reap_lock;

static off_t slot_byte(unsigned slot)
{
    return (off_t)(offsetof(struct mica_region, slots) + slot * sizeof(struct mica_region_slot));
}

static bool range_lock(int fd, int command, short type, off_t at)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int result;
    while ((result = fcntl(fd, command, &lock)) != 0 && errno == EINTR) {
    }
    return result == 0;
}

static void lower(int gpu, uint64_t bytes)
{
    _Atomic uint64_t *total = &mica_region->gpus[gpu].used;
    uint64_t old = atomic_load(total), updated;
    do {
        uint64_t left = (old & MICA_USED_MASK) > bytes ? (old & MICA_USED_MASK) - bytes : 0;
        updated = ((old + MICA_USED_TAG) & ~MICA_USED_MASK) | left;
    } while (bytes && !atomic_compare_exchange_weak(total, &old, updated));
}

/* Called with the slot's byte locked by us: nobody else touches it. Pending holds off every recount from before the slot's bytes go until
 * the total is lower too, or the bytes would be subtracted twice. Free is last: who dies in between leaves a slot to be emptied again. */
static void empty_slot(struct mica_region_slot *slot)
{
    atomic_fetch_add(&slot->pending, 1);
    MICA_CRASH_POINT(9);
    for (int g = 0; g < MICA_GPUS; g++) {
        uint64_t bytes = atomic_exchange(&slot->used[g], 0) & MICA_USED_MASK;
        MICA_CRASH_POINT(10);
        lower(g, bytes);
        atomic_store(&slot->context[g], 0);
        atomic_store(&slot->module[g], 0);
        atomic_store(&slot->busy[g], 0);
        mica_work_drop(slot, g);
    }
    MICA_CRASH_POINT(11);
    atomic_store(&slot->pending, 0);
    MICA_CRASH_POINT(12);
    atomic_store(&slot->state, MICA_SLOT_FREE);
}

/* Called with the slot's byte locked by us. */
static void occupy(unsigned s)
{
    struct mica_region_slot *slot = &mica_region->slots[s];
    empty_slot(slot);
    const char *name = program_invocation_short_name;
    memset(slot->program, 0, sizeof slot->program);
    for (size_t i = 0; name && name[i] && i < sizeof slot->program - 1; i++)
        slot->program[i] = name[i];
    atomic_store(&slot->pid, (uint32_t)getpid());
    atomic_store(&slot->started_at, mica_now());
    own_generation = atomic_fetch_add(&slot->generation, 1) + 1;
    MICA_CRASH_POINT(13);
    atomic_store(&slot->state, MICA_SLOT_TAKEN);
    MICA_CRASH_POINT(14);
    mine = slot;
    own_slot = (int)s;
}

static bool take_slot(void)
{
    for (unsigned s = 0; s < MICA_SLOTS; s++)
        if (range_lock(region_fd, F_OFD_SETLK, F_WRLCK, slot_byte(s))) {
            occupy(s);
            return true;
        }
    return false;
}

static bool is_region(int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == region_seen.st_dev && st.st_ino == region_seen.st_ino;
}

void mica_ledger_forked(void)
{
    if (is_region(region_fd)) /* a forked child must not keep its parent's slot alive */
        close(region_fd);
    region_fd = -1;
    own_slot = -1;
    mine = NULL;
    for (int g = 0; g < MICA_GPUS; g++) {
        atomic_store(&own_charged[g], 0);
        atomic_store(&own_released[g], 0);
        atomic_store(&own_overhead[g][0], 0);
        atomic_store(&own_overhead[g][1], 0);
    }
    atomic_store(&reap_lock, 0);
}

static bool same_inode(int a, int b)
{
    struct stat x, y;
    return a >= 0 && b >= 0 && fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool mica_ledger_attach(enum mica_source source, char *error, size_t error_bytes)
{
    char buffer[512], reason[192] = "";
    bool create;
    if (mica_region && mine)
        return true;
    if (mica_region) /* the parent's, in a forked child */
        munmap(mica_region, MICA_REGION_BYTES);
    mica_region = NULL;
    const char *path = mica_ledger_path(source, buffer, sizeof buffer, &create);
    if (!path) {
        snprintf(error, error_bytes, "MICA_SLICE may contain only letters, digits, - and _");
        return false;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
    if (fd < 0) {
        snprintf(error, error_bytes, "usage region %s cannot be opened (errno %d)", path, errno);
        return false;
    }
    bool ok = range_lock(fd, F_OFD_SETLKW, F_WRLCK, 0);
    if (!ok)
        snprintf(reason, sizeof reason, "cannot be locked (errno %d): it needs open file description locks, that is Linux 3.15 and a file system with locks", errno);
    mica_region = ok ? mica_region_prepare(fd, create, reason, sizeof reason) : NULL;
    ok = mica_region != NULL;
    range_lock(fd, F_OFD_SETLK, F_UNLCK, 0);
    /* The lock lives as long as its open file, and a mapping keeps one open, in forked children too: so the slot's lock is taken through a
     * second opening that nothing maps. */
    region_fd = ok ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (ok && !same_inode(fd, region_fd)) {
        snprintf(reason, sizeof reason, "was replaced while it was opened");
        ok = false;
    }
    close(fd);
    if (ok)
        ok = fstat(region_fd, &region_seen) == 0 && snprintf(region_path, sizeof region_path, "%s", path) < (int)sizeof region_path;
    if (ok && !take_slot()) {
        snprintf(reason, sizeof reason, "is full: %d processes of this container use the GPU already", MICA_SLOTS);
        ok = false;
    }
    if (!ok) {
        snprintf(error, error_bytes, "usage region %s %s", path, reason);
        if (region_fd >= 0)
            close(region_fd);
        region_fd = -1;
        if (mica_region)
            munmap(mica_region, MICA_REGION_BYTES);
        mica_region = NULL;
        return false;
    }
    mica_ledger_reap();
    return true;
}

bool mica_ledger_charge(int gpu, uint64_t bytes, uint64_t limit, bool enforce)
{
    struct mica_region_gpu *card = &mica_region->gpus[gpu];
    struct mica_region_slot *slot = mine;
    bool fits = true;
    if (!slot)
        return false;
    atomic_fetch_add(&slot->pending, 1);
    MICA_CRASH_POINT(1);
    uint64_t old = atomic_load(&card->used), updated;
    do {
        uint64_t used = old & MICA_USED_MASK;
        /* more than the counter holds is more than any card has, also where limits are only reported */
        fits = bytes <= MICA_USED_MASK - used && (!enforce || (used <= limit && bytes <= limit - used));
        updated = ((old + MICA_USED_TAG) & ~MICA_USED_MASK) | ((used + bytes) & MICA_USED_MASK);
    } while (fits && !atomic_compare_exchange_weak(&card->used, &old, updated));
    if (fits) {
        MICA_CRASH_POINT(2);
        atomic_fetch_add(&slot->used[gpu], bytes);
        atomic_fetch_add(&own_charged[gpu], bytes);
        MICA_CRASH_POINT(3);
    }
    atomic_fetch_sub(&slot->pending, 1);
    MICA_CRASH_POINT(4);
    return fits;
}

void mica_ledger_deny(int gpu)
{
    atomic_fetch_add_explicit(&mica_region->gpus[gpu].denials, 1, memory_order_relaxed);
}

uint64_t mica_ledger_charged(int gpu)
{
    return atomic_load(&own_charged[gpu]);
}

uint64_t mica_ledger_released(int gpu)
{
    return atomic_load(&own_released[gpu]);
}

void mica_ledger_release(int gpu, uint64_t bytes)
{
    struct mica_region_slot *slot = mine;
    if (!slot)
        return;
    atomic_fetch_add(&slot->pending, 1);
    MICA_CRASH_POINT(5);
    uint64_t held = atomic_load(&slot->used[gpu]);
    while (!atomic_compare_exchange_weak(&slot->used[gpu], &held, held > bytes ? held - bytes : 0)) {
    }
    atomic_fetch_add(&own_released[gpu], bytes);
    MICA_CRASH_POINT(6);
    lower(gpu, held > bytes ? bytes : held); /* never more than was ours */
    MICA_CRASH_POINT(7);
    atomic_fetch_sub(&slot->pending, 1);
    MICA_CRASH_POINT(8);
}

uint64_t mica_ledger_used(int gpu)
{
    return atomic_load_explicit(&mica_region->gpus[gpu].used, memory_order_relaxed) & MICA_USED_MASK;
}

uint64_t mica_ledger_identity(void)
{
    return mine ? ((uint64_t)(unsigned)own_slot + 1) << 32 | own_generation : 0;
}

static _Atomic uint64_t *overhead_of(struct mica_region_slot *slot, int gpu, enum mica_part part)
{
    return part ? &slot->module[gpu] : &slot->context[gpu];
}

uint64_t mica_ledger_overhead(int gpu, enum mica_part part)
{
    return mine ? atomic_load(&own_overhead[gpu][part]) : 0;
}

void mica_ledger_add_overhead(int gpu, enum mica_part part, int64_t change)
{
    if (!mine || !change)
        return;
    atomic_fetch_add(&own_overhead[gpu][part], (uint64_t)change);
    atomic_fetch_add(overhead_of(mine, gpu, part), (uint64_t)change);
    atomic_fetch_add(part ? &mica_region->gpus[gpu].module : &mica_region->gpus[gpu].context, (uint64_t)change);
}

void mica_ledger_busy(int gpu, uint64_t ns)
{
    atomic_fetch_add_explicit(&mica_region->gpus[gpu].busy, ns, memory_order_relaxed);
    if (mine)
        atomic_fetch_add_explicit(&mine->busy[gpu], ns, memory_order_relaxed);
}

struct mica_region_slot *mica_ledger_slot(void) { return mine; }

bool mica_ledger_file(uint64_t *inode, uint64_t *device)
{
    *inode = (uint64_t)region_seen.st_ino;
    *device = (uint64_t)region_seen.st_dev;
    return mine != NULL;
}

bool mica_ledger_pending(void)
{
    for (unsigned s = 0; s < MICA_SLOTS; s++)
        if (atomic_load(&mica_region->slots[s].pending))
            return true;
    return false;
}

/* Set a total to the sum of the slots, if nothing moved while they were read. */
static void recount(int gpu)
{
    uint64_t before = atomic_load(&mica_region->gpus[gpu].used), sum = 0, contexts = 0, modules = 0;
    /* Before: a charge under way may be in the total and not yet in its slot. After: a release may be in its slot and not yet in the total.
     * What starts in between changes the tag before it matters. */
    if (mica_ledger_pending())
        return;
    for (unsigned s = 0; s < MICA_SLOTS; s++) {
        sum += atomic_load(&mica_region->slots[s].used[gpu]) & MICA_USED_MASK;
        contexts += atomic_load(&mica_region->slots[s].context[gpu]) & MICA_USED_MASK;
        modules += atomic_load(&mica_region->slots[s].module[gpu]) & MICA_USED_MASK;
    }
    if (mica_ledger_pending())
        return;
    MICA_CRASH_POINT(15);
    atomic_store(&mica_region->gpus[gpu].context, contexts);
    atomic_store(&mica_region->gpus[gpu].module, modules);
    if ((before & MICA_USED_MASK) != (sum & MICA_USED_MASK))
        atomic_compare_exchange_strong(&mica_region->gpus[gpu].used, &before,
                                       ((before + MICA_USED_TAG) & ~MICA_USED_MASK) | (sum & MICA_USED_MASK));
}

/* What this process is charged for, at one moment. */
static uint64_t own_used(int gpu)
{
    uint64_t released = atomic_load(&own_released[gpu]), charged, before;
    do {
        before = released;
        charged = atomic_load(&own_charged[gpu]);
        released = atomic_load(&own_released[gpu]);
    } while (released != before);
    return charged - released;
}

/* A program may close every descriptor, ours too. Locks that are asked for through whatever has the number now would make every sibling
 * look dead, and ours is gone with the descriptor: open the region again and take the slot back, with what it held. Reap lock held. */
static bool attached(void)
{
    if (is_region(region_fd))
        return true;
    region_fd = open(region_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW); /* the old number is not ours to close */
    if (!is_region(region_fd)) {
        if (region_fd >= 0)
            close(region_fd);
        region_fd = -1;
        return false;
    }
    struct mica_region_slot *slot = mine;
    if (range_lock(region_fd, F_OFD_SETLK, F_WRLCK, slot_byte((unsigned)own_slot))) {
        if (atomic_load(&slot->state) == MICA_SLOT_TAKEN && atomic_load(&slot->generation) == own_generation)
            return true; /* nobody noticed */
        occupy((unsigned)own_slot);
    } else if (!take_slot()) {
        return false;
    }
    mica_activity_begin(); /* between the two steps nobody may read how much is charged */
    for (int g = 0; g < MICA_GPUS; g++) {
        const uint64_t bytes = own_used(g);
        atomic_fetch_add(&own_released[g], bytes);
        if (bytes)
            (void)mica_ledger_charge(g, bytes, 0, false);
        atomic_store(&mine->context[g], atomic_load(&own_overhead[g][0]));
        atomic_store(&mine->module[g], atomic_load(&own_overhead[g][1]));
    }
    mica_activity_end();
    return true;
}

void mica_ledger_reap(void)
{
    if (!mine || !mica_try(&reap_lock))
        return;
    if (!attached()) {
        mica_release(&reap_lock);
        return;
    }
    for (unsigned s = 0; s < MICA_SLOTS; s++) {
        struct mica_region_slot *slot = &mica_region->slots[s];
        if ((int)s == own_slot || atomic_load(&slot->state) == MICA_SLOT_FREE)
            continue;
        if (mica_ledger_slot_alive(region_fd, s) || !range_lock(region_fd, F_OFD_SETLK, F_WRLCK, slot_byte(s)))
            continue;
        empty_slot(slot);
        range_lock(region_fd, F_OFD_SETLK, F_UNLCK, slot_byte(s));
    }
    for (int g = 0; g < MICA_GPUS; g++)
        if (mica_region->gpus[g].uuid[0])
            recount(g), mica_work_recount(g);
    mica_release(&reap_lock);
}
