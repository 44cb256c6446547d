/* Two launches of graphs with memory at once, and memory that is trimmed meanwhile, on a made-up driver: while one launch charges what it may add, the
 * other thing happens. Prints the bytes that both may take of the card and the bytes that are charged for that. usage: graph_race launch|trim */
#include <stdio.h>
#include <string.h>

#include "../../../../vgpu_shim/src/graph_memory.c"
#include "../../../../vgpu_shim/src/table.c"

struct mica_real mica_real;
struct mica_slice mica_slice = {.device_count = 1};
_Atomic int mica_slice_state = 1, mica_driver_state = 2;
_Atomic uint64_t mica_activity;
static uint64_t reserved = 100, used, charged = 100;
static const char *beside;
static struct holding other;

CUresult mica_slice_start(void) { return 0; }
bool mica_driver_load(void) { return true; }
CUresult mica_driver_absent(void) { return 0; }
int mica_gpu_of_device(CUdevice device) { return device; }
int mica_gpu_of_location(const CUmemLocation *where) { return where->id; }
CUresult mica_memory_usable(int *gpu, CUresult error) { (void)gpu; return error; }
bool mica_gate_capturing(CUstream stream) { (void)stream; return false; }
void mica_ledger_release(int gpu, uint64_t bytes) { (void)gpu; charged -= bytes; }
void mica_charge_taken(int gpu, uint64_t bytes) { (void)gpu; charged += bytes; }

bool mica_charge(int gpu, uint64_t bytes)
{
    const char *now = beside;
    beside = NULL;
    charged += bytes;
    if (now && strcmp(now, "launch") == 0)
        (void)hold(&other, (CUgraphExec)1024, NULL, gpu);
    if (now && strcmp(now, "trim") == 0)
        mica_graph_memory_trim(gpu);
    return true;
}

static CUresult get(CUdevice device, int number, void *value)
{
    (void)device;
    *(uint64_t *)value = number == ATTR_RESERVED ? reserved : used;
    return 0;
}

static CUresult cut(CUdevice device)
{
    (void)device;
    reserved = used;
    return 0;
}

int main(int argc, char **argv)
{
    struct holding mine = {0};
    mica_graph_memory_noted();
    mica_real.cuDeviceGetGraphMemAttribute = get;
    mica_real.cuDeviceGraphMemTrim = cut;
    cards[0].held = 100;
    set_bound((CUgraphExec)512, 0, 150);
    set_bound((CUgraphExec)1024, 0, 150);
    beside = argc > 1 ? argv[1] : "";
    (void)hold(&mine, (CUgraphExec)512, NULL, 0);
    const uint64_t need = 150 + (other.gpus ? 150 : 0);
    printf("[%llu, %llu]\n", (unsigned long long)need, (unsigned long long)charged);
    return 0;
}
