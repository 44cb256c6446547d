/* An instrument, as a profiler is one: told by the driver of each call from within it, it loads code of its own once for each name in INSTRUMENT. With
 * INSTRUMENT_THREAD another thread does, and the call waits for it. With instrument_instead that is called in place of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

_Atomic int instrument_loads, instrument_failed;
void (*instrument_instead)(void);
static __thread int inside;

static void *load(void *current)
{
    int (*load_data)(void **, const void *) = (int (*)(void **, const void *))dlsym(RTLD_DEFAULT, "cuModuleLoadData");
    int (*set_current)(void *) = (int (*)(void *))dlsym(RTLD_DEFAULT, "cuCtxSetCurrent");
    void *module;
    inside = 1;
    if (current)
        set_current(current);
    instrument_failed += load_data(&module, "any") != 0;
    inside = 0;
    return NULL;
}

void mica_sim_called(const char *name, const uint64_t *arguments);
void mica_sim_called(const char *name, const uint64_t *arguments)
{
    const char *wanted = getenv("INSTRUMENT");
    pthread_t thread;
    void *current = NULL;
    (void)arguments;
    if (inside || !wanted || strcmp(name, wanted) != 0 || atomic_load(&instrument_loads))
        return;
    inside = 1;
    int (*get_current)(void **) = (int (*)(void **))dlsym(RTLD_DEFAULT, "cuCtxGetCurrent");
    get_current(&current);
    inside = 0;
    if (!current)
        return;
    atomic_fetch_add(&instrument_loads, 1);
    if (instrument_instead)
        instrument_instead();
    else if (!getenv("INSTRUMENT_THREAD"))
        load(NULL);
    else if (pthread_create(&thread, NULL, load, current) == 0)
        pthread_join(thread, NULL);
}
