/* Two threads that open the memory of one handle, on a made-up driver, in a slice with room for it once: while one of them is being charged, and once
 * it is, the other comes, and goes on until it has its answer or waits for the first. Prints the answers and what is charged: after both, after
 * one has closed it, after the other has. usage: open_race CAP [reused] (0: there is not even room for one)
 * reused: nobody else comes; the memory is unmapped by a way that is not seen, and that of another handle comes to its address. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../../vgpu_shim/src/imports.c"
#include "../../../../vgpu_shim/src/table.c"

enum { AT = 4096, BYTES = 600 };
struct mica_real mica_real;
struct mica_slice mica_slice = {.device_count = 1};
_Atomic int mica_slice_state = 1, mica_driver_state = 2;
_Atomic uint64_t mica_activity;
static _Atomic uint64_t charged, denied;
static uint64_t cap;
static _Atomic int other_started, other_done;
static pthread_t other;
static CUresult other_result;

CUresult mica_slice_start(void) { return 0; }
bool mica_driver_load(void) { return true; }
CUresult mica_driver_absent(void) { return 0; }
CUresult mica_memory_gate(int *gpu) { return (CUresult)(*gpu = 0); }
void mica_memory_exported(CUdeviceptr base, unsigned place) { (void)base, (void)place; }
void mica_overhead_outside(int gpu, int64_t change) { (void)gpu, (void)change; }
int mica_ledger_export(uint64_t handle) { (void)handle; return -1; }
int mica_ledger_find_export(uint64_t handle) { (void)handle; return -1; }
bool mica_ledger_adopt_export(int place, uint64_t handle) { (void)place, (void)handle; return false; }
void mica_ledger_drop_export(int place, uint64_t handle) { (void)place, (void)handle; }
void mica_ledger_release(int gpu, uint64_t bytes) { (void)gpu; atomic_fetch_sub(&charged, bytes); }
void mica_charge_taken(int gpu, uint64_t bytes) { (void)gpu; atomic_fetch_add(&charged, bytes); }

static CUresult open_it(char name)
{
    const CUipcHandle handle = {{name}};
    CUdeviceptr at;
    return cuIpcOpenMemHandle_v2(&at, handle, 1);
}

static void *come(void *unused)
{
    other_result = open_it(1);
    atomic_store(&other_done, 1);
    return unused;
}

bool mica_charge_try(int gpu, uint64_t bytes)
{
    (void)gpu;
    const bool fits = atomic_load(&charged) + bytes <= cap;
    if (fits)
        atomic_fetch_add(&charged, bytes);
    if (!atomic_exchange(&other_started, 1)) {
        if (pthread_create(&other, NULL, come, NULL))
            abort();
        while (!atomic_load(&other_done) && atomic_load(&opened.lock) != 2) {
        }
    }
    return fits;
}

bool mica_charge_make_room(int gpu, uint64_t bytes, int step)
{
    (void)gpu, (void)bytes;
    denied += step > 0;
    return step == 0;
}

bool mica_charge(int gpu, uint64_t bytes)
{
    for (int step = 0; !mica_charge_try(gpu, bytes); step++)
        if (!mica_charge_make_room(gpu, bytes, step))
            return false;
    return true;
}

static CUresult opens(CUdeviceptr *at, CUipcHandle handle, unsigned flags)
{
    (void)handle, (void)flags;
    *at = AT;
    return 0;
}

static CUresult closes(CUdeviceptr at)
{
    (void)at;
    return 0;
}

static CUresult range(CUdeviceptr *base, size_t *bytes, CUdeviceptr at)
{
    (void)base, (void)at;
    *bytes = BYTES;
    return 0;
}

int main(int argc, char **argv)
{
    cap = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    mica_real.cuIpcOpenMemHandle_v2 = opens;
    mica_real.cuIpcCloseMemHandle = closes;
    mica_real.cuMemGetAddressRange_v2 = range;
    const bool reused = argc > 2 && strcmp(argv[2], "reused") == 0;
    atomic_store(&other_started, reused);
    const CUresult result = open_it(1);
    if (reused)
        other_result = open_it(2);
    else
        pthread_join(other, NULL);
    printf("[%d, %d, %d, %d", (int)result, (int)other_result, (int)denied, (int)charged);
    for (int i = 0; i < 2; i++) {
        cuIpcCloseMemHandle(AT);
        printf(", %d", (int)charged);
    }
    printf("]\n");
    return 0;
}
