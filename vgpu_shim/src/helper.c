/* See helper.h. */
#include "helper.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "gate.h"
#include "lease.h"
#include "meter.h"

enum {
    BRISK_NS = 50000,     /* while others wait for the card */
    CALM_NS = 500000,
    LEISURE_NS = 2000000, /* nobody waits for anything */
    SLEEPY_NS = 20000000, /* nothing in flight for this long: sleep until woken */
    STACK_BYTES = 256 * 1024
};

_Atomic int mica_helper_state;
static _Atomic int stopping, inside;

/* Nanoseconds until the next look; 0 when there is nothing in flight. */
static uint64_t serve(uint64_t now)
{
    uint64_t wait = 0;
    for (int i = 0; i < MICA_METERS; i++) {
        struct mica_meter *meter = &mica_meters[i];
        const int gpu = atomic_load(&meter->gpu);
        if (!atomic_load(&meter->context) || gpu < 0 || !mica_meter_unsettled(meter))
            continue;
        mica_meter_serve(meter, !mica_gate_captures());
        if (mica_meter_unsettled(meter)) /* still running, and looked after */
            atomic_store_explicit(&mica_region->gpus[gpu].active_at, now, memory_order_relaxed);
        uint64_t mine = mica_gate_pace(gpu, now, BRISK_NS, CALM_NS, LEISURE_NS);
        wait = !wait || mine < wait ? mine : wait;
    }
    return wait;
}

static void nap(_Atomic int *word, int value, uint64_t ns)
{
    const struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, ns ? &limit : NULL, NULL, 0);
}

/* Launches go without asking: limits and arbiter must be looked at for them. */
static bool passing(void)
{
    static int seen;
    const int now = atomic_load_explicit(&mica_meter_passes, memory_order_relaxed), before = seen;
    seen = now;
    if (now && mica_lease_arbiter(mica_now()))
        atomic_store(&mica_meter_passes, 0);
    return now != before;
}

static void *run(void *unused)
{
    uint64_t busy_at = mica_now();
    (void)unused;
    (void)mica_meter_relax(); /* for good: this thread captures nothing */
    while (!atomic_load(&stopping)) {
        uint64_t now = mica_now();
        atomic_store(&inside, 1);
        const bool stay = !atomic_load(&stopping);
        uint64_t wait = stay ? serve(now) : 0;
        if (stay)
            mica_slice_tick(now); /* asks the driver and NVML too */
        atomic_store(&inside, 0);
        if (wait || passing())
            busy_at = now;
        if (wait || now - busy_at < SLEEPY_NS) {
            nap(&stopping, 0, wait ? wait : LEISURE_NS);
            continue;
        }
        atomic_store(&mica_helper_state, MICA_HELPER_ASLEEP);
        bool idle = true; /* whoever opened a batch before it could see that we sleep is seen here */
        for (int i = 0; i < MICA_METERS && idle; i++)
            idle = !mica_meter_unsettled(&mica_meters[i]);
        if (idle)
            nap(&mica_helper_state, MICA_HELPER_ASLEEP, 0);
        atomic_store(&mica_helper_state, MICA_HELPER_AWAKE);
        busy_at = mica_now();
    }
    return NULL;
}

/* The driver is about to be torn down: be out of it. Registered after the driver's own, so called before. */
static void at_exit(void)
{
    atomic_store(&stopping, 1);
    for (int i = 0; i < 100 && atomic_load(&inside); i++)
        mica_sleep(1000000);
}

/* libpthread is there when a driver is, but this library must load without it. */
static bool start(void)
{
    __typeof__(pthread_create) *create = (__typeof__(create))mica_lookup_plain("pthread_create");
    __typeof__(pthread_attr_init) *init = (__typeof__(init))mica_lookup_plain("pthread_attr_init");
    __typeof__(pthread_attr_setdetachstate) *detach = (__typeof__(detach))mica_lookup_plain("pthread_attr_setdetachstate");
    __typeof__(pthread_attr_setstacksize) *stack = (__typeof__(stack))mica_lookup_plain("pthread_attr_setstacksize");
    __typeof__(pthread_sigmask) *mask = (__typeof__(mask))mica_lookup_plain("pthread_sigmask");
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (!create || !init || !detach || !stack || !mask || init(&attributes))
        return false;
    (void)detach(&attributes, PTHREAD_CREATE_DETACHED);
    (void)stack(&attributes, STACK_BYTES);
    sigfillset(&all); /* the program's handlers never run on our thread */
    bool masked = mask(SIG_SETMASK, &all, &before) == 0;
    bool made = create(&thread, &attributes, run, NULL) == 0;
    if (masked)
        (void)mask(SIG_SETMASK, &before, NULL);
    return made;
}

void mica_helper_wake_slow(void)
{
    static _Atomic int registered;
    int state = MICA_HELPER_NONE;
    if (atomic_compare_exchange_strong(&mica_helper_state, &state, MICA_HELPER_AWAKE)) {
        if (!atomic_exchange(&registered, 1))
            (void)atexit(at_exit);
        if (!start()) {
            atomic_store(&mica_helper_state, MICA_HELPER_IMPOSSIBLE);
            MICA_LOG_ONCE("no helper thread could be started: what a launch took is settled by later launches only");
        }
    } else if (state == MICA_HELPER_ASLEEP && atomic_compare_exchange_strong(&mica_helper_state, &state, MICA_HELPER_AWAKE)) {
        syscall(SYS_futex, &mica_helper_state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

void mica_helper_forked(void)
{
    atomic_store(&inside, 0);
    atomic_store(&mica_helper_state, MICA_HELPER_NONE);
}
