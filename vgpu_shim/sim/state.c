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

#include "config.h"

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

static const char MAGIC[8] = {'M', 'I', 'C', 'A', 'S', 'I', 'M', '1'};
enum { LOCK_TABLE = 0, LOCK_GPU = 1, LOCK_SLOT = 4096 };

static struct sim_state *mapped;
static int state_fd = -1;
static int own_slot = -1;
static uint32_t own_pid;
static pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t gpu_mutex[SIM_GPUS];

uint64_t sim_clock_ns(void)
{
    struct timespec ts;
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
    pthread_mutex_lock(&gpu_mutex[gpu]);
    range_lock(LOCK_GPU + gpu, F_WRLCK);
}

void sim_state_unlock(int gpu)
{
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
        mapped->version = 1;
        mapped->size = sizeof(struct sim_state);
        for (int g = 0; g < SIM_GPUS; g++)
            mapped->gpus[g].current = -1;
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
            gpu->current = -1;
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

uint64_t sim_state_used(const struct sim_state *state, int gpu)
{
    uint64_t used = 0;
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++)
        if (state->slots[s].state == SIM_SLOT_LIVE)
            used += state->slots[s].bytes[gpu];
    return used;
}
