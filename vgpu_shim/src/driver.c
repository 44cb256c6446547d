/* See driver.h. */
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNTRIED, LOADING, READY, MISSING };
enum { ROUTES = 512 };

struct mica_real mica_real;
_Atomic int mica_driver_state;
static _Atomic int loader_tid;
static void *handle;
static const void *base;

/* Pointers the driver gives out, with our stand-ins: open addressing, written once while loading. */
static struct route {
    void *pointer, *hook;
    const char *name;
} routes[ROUTES];

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

static void add_route(void *pointer, const struct hook *hook)
{
    size_t at = hash(pointer);
    for (; routes[at].pointer; at = (at + 1) % ROUTES)
        if (routes[at].pointer == pointer && routes[at].hook == hook->function)
            return;
    routes[at] = (struct route){pointer, hook->function, hook->symbol};
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

static bool try_driver(const char *path)
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
    handle = opened;
    base = dladdr(init, &a) ? a.dli_fbase : NULL;
    return true;
}

static void fill(void)
{
#define U(symbol) mica_real.symbol = (__typeof__(mica_real.symbol))mica_real_dlsym(handle, #symbol);
#define H(symbol, class) mica_real.symbol = (__typeof__(mica_real.symbol))mica_real_dlsym(handle, #symbol);
#include "hooks.def"
#include "used.def"
#undef U
#undef H
    for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++) {
        void *real = *(void **)((char *)&mica_real + hooks[i].slot);
        if (real)
            add_route(real, &hooks[i]);
        /* A driver may hand out other addresses than it exports: ask for each function at the version it came in. */
        void *given = NULL;
        int status = 0;
        if (real && hooks[i].version && mica_real.cuGetProcAddress_v2
            && mica_real.cuGetProcAddress_v2(hooks[i].base, &given, hooks[i].version, hooks[i].per_thread ? MICA_LOOKUP_PER_THREAD : 0, &status) == 0
            && given && given != real && mica_driver_route(given, NULL) == given)
            add_route(given, &hooks[i]);
    }
}

bool mica_driver_load(void)
{
    int state = UNTRIED, tid = (int)syscall(SYS_gettid), saved = errno;
    if (atomic_compare_exchange_strong(&mica_driver_state, &state, LOADING)) {
        atomic_store(&loader_tid, tid);
        mica_lookup_init();
        bool found = mica_find_driver(try_driver);
        if (found)
            fill();
        atomic_store(&loader_tid, 0);
        atomic_store_explicit(&mica_driver_state, found ? READY : MISSING, memory_order_release);
        errno = saved;
        return found;
    }
    while (state == LOADING) {
        if (atomic_load(&loader_tid) == tid)
            return false; /* the driver's own start-up looks something up: leave it alone */
        sched_yield();
        state = atomic_load_explicit(&mica_driver_state, memory_order_acquire);
    }
    return state == READY;
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
