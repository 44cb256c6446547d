/* See state.h. Locks: byte 0 guards creation and slots, byte 1+g the card g (OFD, so that two copies of this library in one process
 * exclude each other); byte 4096+s is held by the process of slot s (a POSIX lock: a forked child does not keep it, and the kernel
 * translates the holder's pid between namespaces). All are dropped by the kernel when a process dies. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

static const char MAGIC[8] = {'M', 'I', 'C', 'A', 'S', 'I', 'M', '2'};
enum { LOCK_TABLE = 0, LOCK_GPU = 1, LOCK_SLOT = 4096 };

static struct sim_state *mapped;
static int state_fd = -1;
static int own_slot = -1;
static uint32_t own_pid;
static pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t gpu_mutex[SIM_GPUS];

bool sim_clock_virtual(void)
{
    return mica_sim_clock_active && mica_sim_clock_active();
}

void sim_clock_spend(uint64_t ns)
{
    if (ns && sim_clock_virtual())
        mica_sim_clock_spend(ns);
}

uint64_t sim_clock_ns(void)
{
    struct timespec ts;
    if (sim_clock_virtual())
        return mica_sim_clock_now();
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void range_lock(off_t start, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
    while (fcntl(state_fd, F_OFD_SETLKW, &lock) != 0 && errno == EINTR) {
    }
}

static void table_lock(void)
{
    pthread_mutex_lock(&table_mutex);
    range_lock(LOCK_TABLE, F_WRLCK);
}

static void table_unlock(void)
{
    range_lock(LOCK_TABLE, F_UNLCK);
    pthread_mutex_unlock(&table_mutex);
}

void sim_state_lock(int gpu)
{
    if (sim_clock_virtual())
        return;
    pthread_mutex_lock(&gpu_mutex[gpu]);
    range_lock(LOCK_GPU + gpu, F_WRLCK);
}

void sim_state_unlock(int gpu)
{
    if (sim_clock_virtual())
        return;
    range_lock(LOCK_GPU + gpu, F_UNLCK);
    pthread_mutex_unlock(&gpu_mutex[gpu]);
}

static const char *prepare(const char *path)
{
    state_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (state_fd < 0)
        return strerror(errno);
    (void)fchmod(state_fd, 0666); /* whatever the umask; fails harmlessly when the file is another user's */
    table_lock();
    struct stat st;
    const char *error = NULL;
    if (fstat(state_fd, &st) != 0)
        error = strerror(errno);
    else if (st.st_size == 0 && ftruncate(state_fd, (off_t)sizeof(struct sim_state)) != 0)
        error = strerror(errno);
    else if (st.st_size != 0 && st.st_size != (off_t)sizeof(struct sim_state))
        error = "is of another version; remove it when nothing uses the cards";
    if (!error) {
        void *at = mmap(NULL, sizeof(struct sim_state), PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
        if (at == MAP_FAILED)
            error = strerror(errno);
        else
            mapped = at;
    }
    if (!error && memcmp(mapped->magic, MAGIC, sizeof MAGIC) != 0) {
        mapped->version = 2;
        mapped->size = sizeof(struct sim_state);
        mapped->is_virtual = sim_clock_virtual();
        for (int g = 0; g < SIM_GPUS; g++)
            mapped->gpus[g].current = mapped->gpus[g].last = -1;
        memcpy(mapped->magic, MAGIC, sizeof MAGIC);
    }
    table_unlock();
    return error;
}

struct sim_state *sim_state_open(void)
{
    static bool tried;
    pthread_mutex_lock(&open_mutex);
    if (!tried) {
        tried = true;
        for (int g = 0; g < SIM_GPUS; g++)
            pthread_mutex_init(&gpu_mutex[g], NULL);
        char path[512];
        snprintf(path, sizeof path, "%s/state", sim_config_dir());
        const char *error = prepare(path);
        if (error) {
            fprintf(stderr, "mica-sim: %s: %s\n", path, error);
            mapped = NULL;
        }
    }
    pthread_mutex_unlock(&open_mutex);
    return mapped;
}

int sim_state_gpu(struct sim_state *state, const char *uuid)
{
    int found = -1;
    table_lock();
    for (int g = 0; g < SIM_GPUS && found < 0; g++) {
        struct sim_gpu *gpu = &state->gpus[g];
        if (gpu->uuid[0] == '\0') {
            gpu->current = gpu->last = -1;
            gpu->time_ns = sim_clock_ns();
            snprintf(gpu->uuid, sizeof gpu->uuid, "%s", uuid);
        }
        if (strncmp(gpu->uuid, uuid, sizeof gpu->uuid) == 0)
            found = g;
    }
    table_unlock();
    return found;
}

static uint64_t pid_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static bool lock_slot(int slot)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_SLOT + slot, .l_len = 1};
    return fcntl(state_fd, F_SETLK, &lock) == 0;
}

bool sim_state_slot_alive(struct sim_state *state, int slot)
{
    if (state->slots[slot].state != SIM_SLOT_LIVE)
        return false;
    if (slot == own_slot)
        return true;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_SLOT + slot, .l_len = 1};
    if (fcntl(state_fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK)
        return true;
    /* a second copy of this library in the same process does not see its process's own lock */
    return state->slots[slot].pid == (uint32_t)getpid() && state->slots[slot].pid_namespace == pid_namespace();
}

uint32_t sim_state_slot_pid(struct sim_state *state, int slot)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_SLOT + slot, .l_len = 1};
    if (slot == own_slot)
        return (uint32_t)getpid();
    if (fcntl(state_fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0)
        return (uint32_t)lock.l_pid;
    return state->slots[slot].pid_namespace == pid_namespace() ? state->slots[slot].pid : 0;
}

static void clear_slot(struct sim_state *state, int slot)
{
    for (int g = 0; g < SIM_GPUS; g++) {
        sim_state_lock(g);
        state->gpus[g].active[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
        if (state->gpus[g].current == slot)
            state->gpus[g].current = -1;
        state->slots[slot].bytes[g] = 0;
        state->slots[slot].busy_ns[g] = 0;
        state->slots[slot].kernels[g] = 0;
        state->slots[slot].overhead[g] = state->slots[slot].work_ns[g] = state->slots[slot].window_busy[g] = 0;
        state->slots[slot].utilization[g] = 0;
        for (int i = 0; i < SIM_SHARED; i++)
            if (state->shared[i].gpu == g)
                sim_shared_drop(state, state->shared[i].id, slot);
        sim_state_unlock(g);
    }
    for (int q = 0; q < SIM_QUEUES; q++) {
        state->queues[slot][q].gpu = -1;
        state->queues[slot][q].head = state->queues[slot][q].tail = 0;
    }
}

int sim_state_slot(struct sim_state *state)
{
    if (own_slot >= 0 && own_pid == (uint32_t)getpid())
        return own_slot;
    table_lock();
    for (int s = 0; s < SIM_SLOTS; s++) {
        struct sim_slot *slot = &state->slots[s];
        if ((slot->state == SIM_SLOT_LIVE && sim_state_slot_alive(state, s)) || !lock_slot(s))
            continue;
        clear_slot(state, s);
        slot->pid = own_pid = (uint32_t)getpid();
        slot->pid_namespace = pid_namespace();
        if (state->slots_used < (uint32_t)s + 1)
            state->slots_used = (uint32_t)s + 1;
        own_slot = s;
        slot->state = SIM_SLOT_LIVE;
        break;
    }
    table_unlock();
    return own_slot;
}

void sim_state_reap(struct sim_state *state, int gpu, bool now)
{
    uint64_t at = sim_clock_ns();
    if (!now && at - state->gpus[gpu].reaped_at < 50000000u)
        return;
    state->gpus[gpu].reaped_at = at;
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++)
        if (state->slots[s].state == SIM_SLOT_LIVE && !sim_state_slot_alive(state, (int)s))
            state->slots[s].state = SIM_SLOT_DEAD;
}

/* The first living holder; -1 when there is none. */
static int holder_of(struct sim_state *state, const struct sim_shared *shared)
{
    for (int s = 0; s < SIM_SLOTS; s++)
        if (shared->holders[s / 64] & UINT64_C(1) << (s % 64) && state->slots[s].state == SIM_SLOT_LIVE)
            return s;
    return -1;
}

uint64_t sim_state_used(struct sim_state *state, int gpu)
{
    uint64_t used = 0;
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++)
        if (state->slots[s].state == SIM_SLOT_LIVE)
            used += state->slots[s].bytes[gpu];
    for (int i = 0; i < SIM_SHARED && state->next_shared; i++)
        if (state->shared[i].id && state->shared[i].gpu == gpu && holder_of(state, &state->shared[i]) >= 0)
            used += state->shared[i].bytes;
    return used;
}

uint64_t sim_state_bytes(struct sim_state *state, int gpu, int slot)
{
    uint64_t bytes = state->slots[slot].bytes[gpu];
    for (int i = 0; i < SIM_SHARED && state->next_shared; i++)
        if (state->shared[i].id && state->shared[i].gpu == gpu && holder_of(state, &state->shared[i]) == slot)
            bytes += state->shared[i].bytes;
    return bytes;
}

struct sim_shared *sim_shared_find(struct sim_state *state, uint64_t id)
{
    for (int i = 0; id && i < SIM_SHARED; i++)
        if (state->shared[i].id == id && holder_of(state, &state->shared[i]) >= 0)
            return &state->shared[i];
    return NULL;
}

uint64_t sim_shared_make(struct sim_state *state, int gpu, int slot, uint64_t bytes)
{
    for (int i = 0; i < SIM_SHARED; i++) {
        struct sim_shared *shared = &state->shared[i];
        if (shared->id && holder_of(state, shared) >= 0)
            continue;
        *shared = (struct sim_shared){.id = ++state->next_shared, .bytes = bytes, .gpu = gpu};
        shared->holders[slot / 64] = UINT64_C(1) << (slot % 64);
        state->slots[slot].bytes[gpu] -= bytes;
        return shared->id;
    }
    return 0;
}

bool sim_shared_hold(struct sim_state *state, uint64_t id, int slot)
{
    struct sim_shared *shared = sim_shared_find(state, id);
    if (shared)
        shared->holders[slot / 64] |= UINT64_C(1) << (slot % 64);
    return shared != NULL;
}

void sim_shared_drop(struct sim_state *state, uint64_t id, int slot)
{
    for (int i = 0; id && i < SIM_SHARED; i++) {
        struct sim_shared *shared = &state->shared[i];
        if (shared->id != id)
            continue;
        shared->holders[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
        if (holder_of(state, shared) < 0)
            shared->id = 0;
    }
}

bool sim_state_same_clock(const struct sim_state *state)
{
    return (state->is_virtual != 0) == sim_clock_virtual();
}
