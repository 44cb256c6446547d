/* A module is loaded, or the overhead is looked at again, while another thread takes and gives back memory at the worst moment, on a made-up driver.
 * The process holds 300 MiB for its context; the module takes 32 more. Prints whether the module may stay, and the MiB that are then charged for both.
 * usage: overhead_race passing|overlapping|importing|managed|refresh LIMIT
 *   passing: taken and given back while NVML is asked, beside a call that is under way all the time
 *   overlapping: the same by two calls that are both under way all the time, and give back what one of them had before
 *   importing: another process's memory, once it is seen how much of that there is, beside a call that is under way all the time
 *   managed: managed memory, which lives on the host, once it is seen how much there is
 *   refresh: the same while nothing is loaded, as soon as it is seen that there is none */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void looked_at(const volatile void *what);
#undef atomic_load
#define atomic_load(object) (looked_at(object), atomic_load_explicit(object, memory_order_seq_cst))
#include "../../../../vgpu_shim/src/overhead.c"

static const uint64_t mib = UINT64_C(1) << 20;
struct mica_real mica_real;
static struct mica_region region;
struct mica_region *mica_region = &region;
_Atomic uint64_t mica_activity;
_Atomic int mica_slice_state = 1;
static uint64_t limit, held, taken, given, parts[2];
static const char *how;
static bool armed;

CUresult mica_slice_start(void) { return 0; }
int mica_gpu_current(void) { return 0; }
int mica_gpu_of_device(CUdevice device) { return device; }
void mica_nvml_forked(void) { }
uint64_t mica_ledger_charged(int gpu) { (void)gpu; return taken; }
uint64_t mica_ledger_released(int gpu) { (void)gpu; return given; }
void mica_ledger_release(int gpu, uint64_t bytes) { (void)gpu; given += bytes; }
void mica_charge_taken(int gpu, uint64_t bytes) { (void)gpu; taken += bytes; }
uint64_t mica_ledger_overhead(int gpu, enum mica_part part) { (void)gpu; return parts[part]; }
void mica_ledger_add_overhead(int gpu, enum mica_part part, int64_t change) { (void)gpu; parts[part] += (uint64_t)change; }

bool mica_charge(int gpu, uint64_t bytes)
{
    (void)gpu;
    const bool fits = bytes <= limit && taken - given <= limit - bytes;
    taken += fits ? bytes : 0;
    return fits;
}

static void take(uint64_t bytes)
{
    mica_charge_taken(0, bytes);
    held += bytes;
}

static void give(uint64_t bytes)
{
    held -= bytes;
    mica_ledger_release(0, bytes);
}

/* On the host: NVML does not see it. */
static void take_managed(uint64_t bytes)
{
    mica_activity_begin();
    mica_charge_taken(0, bytes);
    mica_overhead_managed(0, (int64_t)bytes);
    mica_activity_end();
}

bool mica_nvml_own_bytes(const char *uuid, uint64_t *bytes)
{
    (void)uuid;
    const bool passing = armed && strcmp(how, "passing") == 0, overlapping = armed && strcmp(how, "overlapping") == 0;
    if (passing)
        mica_activity_begin();
    if (passing || overlapping)
        take(1024 * mib);
    if (passing)
        mica_activity_end();
    *bytes = held;
    if (passing)
        mica_activity_begin();
    if (passing || overlapping)
        give(1024 * mib); /* overlapping: what the second call's thread had before; the first one's stays for the next time */
    if (passing)
        mica_activity_end();
    return true;
}

static void looked_at(const volatile void *what)
{
    if (what == &outside[0] && armed && strcmp(how, "importing") == 0) {
        armed = false;
        mica_charge_taken(0, 512 * mib);
        mica_overhead_outside(0, (int64_t)(512 * mib));
    }
    if (what != &managed[0] || !armed || strcmp(how, "managed") != 0)
        return;
    armed = false;
    take_managed(600 * mib);
}

void mica_pools_settle(void)
{
    if (armed && strcmp(how, "refresh") == 0) {
        armed = false;
        take_managed(600 * mib);
    }
}

/* Two calls that go on for as long as everything else: one has taken nothing yet, the other has not given back what it will. */
static void prepare(void)
{
    if (strcmp(how, "managed") == 0)
        take_managed(64 * mib);
    if (strcmp(how, "overlapping") == 0)
        take(1024 * mib);
    if (strcmp(how, "importing") == 0)
        take(512 * mib);
    if (strcmp(how, "passing") == 0 || strcmp(how, "overlapping") == 0 || strcmp(how, "importing") == 0)
        mica_activity_begin();
}

static bool load_module(void)
{
    struct mica_growth growth;
    mica_growth_begin(&growth, 0, MICA_MODULE);
    armed = true;
    held += 32 * mib;
    return mica_growth_end(&growth, 0, NULL);
}

int main(int argc, char **argv)
{
    bool fits = true;
    how = argc > 2 ? argv[1] : "";
    limit = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    held = 300 * mib;
    take(0);
    (void)raise_by(0, MICA_CONTEXT, 300 * mib, false);
    atomic_store(&watched[0], 1);
    prepare();
    if (strcmp(how, "refresh") == 0) {
        armed = true;
        mica_overhead_refresh();
    } else {
        fits = load_module();
    }
    printf("[%d, %d]\n", fits, (int)((parts[0] + parts[1]) / mib));
    return 0;
}
