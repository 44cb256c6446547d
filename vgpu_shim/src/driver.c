/* See driver.h. */
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNTRIED, PUBLISHING, READY, MISSING };
enum { ROUTES = 512, LOADERS = 256 };

struct mica_real mica_real;
_Atomic int mica_driver_state;
static _Atomic int loaders[LOADERS]; /* threads that are loading */
static void *handle;
static const void *base;

/* Pointers the driver gives out, with our stand-ins: open addressing, written once while loading. */
struct route {
    void *pointer, *hook;
    const char *name;
};
static struct route routes[ROUTES];

/* A driver as one thread found it, before it is everybody's. */
struct found {
    void *handle;
    const void *base;
    struct mica_real real;
    struct route routes[ROUTES];
};

static const struct hook {
    const char *symbol, *base;
    int version;
    bool per_thread;
    void *function;
    size_t slot; /* offset in mica_real */
} hooks[] = {
#define MICA_HOOK(symbol, base, version, per_thread) \
    {#symbol, #base, version, per_thread, (void *)symbol, offsetof(struct mica_real, symbol)},
#include "hook_rows.inc"
};

static size_t hash(const void *pointer)
{
    return (size_t)(((uintptr_t)pointer >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % ROUTES;
}

static bool has_route(const struct found *found, const void *pointer)
{
    size_t at = hash(pointer);
    while (found->routes[at].pointer && found->routes[at].pointer != pointer)
        at = (at + 1) % ROUTES;
    return found->routes[at].pointer != NULL;
}

static void add_route(struct found *found, void *pointer, const struct hook *hook)
{
    size_t at = hash(pointer);
    for (; found->routes[at].pointer; at = (at + 1) % ROUTES)
        if (found->routes[at].pointer == pointer && found->routes[at].hook == hook->function)
            return;
    found->routes[at] = (struct route){pointer, hook->function, hook->symbol};
}

void *mica_driver_route(void *pointer, const char *name)
{
    void *found = pointer;
    size_t length = name ? strlen(name) : 0;
    for (size_t at = hash(pointer); pointer && routes[at].pointer; at = (at + 1) % ROUTES) {
        if (routes[at].pointer != pointer)
            continue;
        if (found == pointer)
            found = routes[at].hook;
        /* several names at one address: the one that was asked for */
        if (name && strncmp(routes[at].name, name, length) == 0 && (!routes[at].name[length] || routes[at].name[length] == '_'))
            return routes[at].hook;
    }
    return found;
}

static bool is_self(const char *path)
{
    Dl_info self;
    struct stat ours, theirs;
    return dladdr((void *)&mica_driver_load, &self) && self.dli_fname && stat(self.dli_fname, &ours) == 0 && stat(path, &theirs) == 0
        && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static bool try_driver(const char *path, void *context)
{
    struct stat st;
    if (stat(path, &st) != 0 || is_self(path))
        return false;
    void *opened = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!opened)
        return false;
    void *init = mica_real_dlsym(opened, "cuInit"), *own = mica_real_dlsym(opened, "dlsym");
    Dl_info a, b;
    /* a copy of this limiter under another inode also defines dlsym */
    bool limiter = init && own && dladdr(init, &a) && dladdr(own, &b) && a.dli_fbase == b.dli_fbase;
    if (!init || limiter) {
        dlclose(opened);
        return false;
    }
    struct found *found = context;
    found->handle = opened;
    found->base = dladdr(init, &a) ? a.dli_fbase : NULL;
    return true;
}

static void fill(struct found *found)
{
    struct mica_real *real = &found->real;
#define U(symbol) real->symbol = (__typeof__(real->symbol))mica_real_dlsym(found->handle, #symbol);
#define H(symbol, class) U(symbol)
#include "hooks.def"
#include "used.def"
#undef U
#undef H
    for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++) {
        void *own = *(void **)((char *)real + hooks[i].slot);
        if (own)
            add_route(found, own, &hooks[i]);
        /* A driver may hand out other addresses than it exports: ask for each function at the version it came in. */
        void *given = NULL;
        int status = 0;
        if (own && hooks[i].version && real->cuGetProcAddress_v2
            && real->cuGetProcAddress_v2(hooks[i].base, &given, hooks[i].version, hooks[i].per_thread ? MICA_LOOKUP_PER_THREAD : 0, &status) == 0
            && given && given != own && !has_route(found, given))
            add_route(found, given, &hooks[i]);
    }
}

/* One thread's result becomes everybody's; the others' is the same. */
static void publish(const struct found *found)
{
    int state = UNTRIED;
    if (atomic_compare_exchange_strong(&mica_driver_state, &state, PUBLISHING)) {
        if (found->handle) {
            handle = found->handle;
            base = found->base;
            mica_real = found->real;
            memcpy(routes, found->routes, sizeof routes);
        }
        atomic_store_explicit(&mica_driver_state, found->handle ? READY : MISSING, memory_order_release);
    }
    while (atomic_load_explicit(&mica_driver_state, memory_order_acquire) == PUBLISHING)
        sched_yield(); /* copying, which takes no lock */
}

/* Place of this thread among the loaders; -1 when it is loading already: the driver's own start-up looks something up. */
static int enter(int tid)
{
    for (int i = 0; i < LOADERS; i++)
        if (atomic_load(&loaders[i]) == tid)
            return -1;
    for (int i = 0;; i = (i + 1) % LOADERS) {
        int nobody = 0;
        if (atomic_compare_exchange_strong(&loaders[i], &nobody, tid))
            return i;
    }
}

/* No thread waits for another's dlopen, which may itself wait for this thread: the loader's lock is held around constructors, and those look
 * driver functions up. Whoever comes while the driver is not there loads it too, which only counts a reference. */
bool mica_driver_load(void)
{
    int state = atomic_load_explicit(&mica_driver_state, memory_order_acquire), saved = errno;
    if (state == READY || state == MISSING)
        return state == READY;
    int place = enter((int)syscall(SYS_gettid));
    if (place < 0)
        return false;
    mica_slice_watch_forks();
    mica_lookup_init();
    struct found *found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found != MAP_FAILED) {
        if (mica_find_library(MICA_FIND_DRIVER, try_driver, found))
            fill(found);
        publish(found);
        munmap(found, sizeof *found);
    }
    atomic_store(&loaders[place], 0);
    errno = saved;
    return atomic_load_explicit(&mica_driver_state, memory_order_acquire) == READY;
}

void mica_driver_forked(void)
{
    int half_done = PUBLISHING;
    (void)atomic_compare_exchange_strong(&mica_driver_state, &half_done, UNTRIED);
    for (int i = 0; i < LOADERS; i++)
        atomic_store(&loaders[i], 0);
}

CUresult mica_driver_absent(void)
{
    if (atomic_load(&mica_driver_state) == READY)
        return MICA_CUDA_NOT_SUPPORTED;
    MICA_LOG_ONCE("no CUDA driver (libcuda.so.1) was found; GPU calls answer CUDA_ERROR_NO_DEVICE");
    return MICA_CUDA_NO_DEVICE;
}

void *mica_driver_symbol(const char *name)
{
    return mica_driver() ? mica_real_dlsym(handle, name) : NULL;
}

void *mica_driver_handle(void)
{
    return handle;
}

const void *mica_driver_base(void)
{
    return base;
}
