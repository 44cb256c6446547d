/* Forwarders of everything that is not answered here. */
#include "front.h"

#include <stdatomic.h>

void *mica_forward_resolve(unsigned index);

static const char *const names[] = {
#define MICA_FORWARD(symbol) #symbol,
#include "nvml_forwards.inc"
};

/* One word per forwarder, filled on first call; the trampolines jump through it. */
_Atomic(void *) mica_forward_table[sizeof names / sizeof names[0]] __attribute__((visibility("hidden")));

void *mica_forward_resolve(unsigned index)
{
    void *target = mica_nvml_real(names[index]);
    target = target ? target : (void *)mica_nvml_absent;
    atomic_store_explicit(&mica_forward_table[index], target, memory_order_release);
    return target;
}
