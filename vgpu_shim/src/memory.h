/* Charging memory to the slice: what the families of allocations share. */
#ifndef MICA_MEMORY_H
#define MICA_MEMORY_H

#include "ledger.h"
#include "slice.h"
#include "table.h"

enum mica_kind { MICA_KIND_PLAIN, MICA_KIND_MANAGED, MICA_KIND_POOLED, MICA_KIND_EXPORTED };

/* Reserve bytes of a GPU's slice. Before it is refused, what dead processes held and what pools and graphs of this process keep unused is
 * given back. False when they still do not fit. */
bool mica_charge(int gpu, uint64_t bytes);
/* The same in steps, for who must not be seen between charging and what comes with it: try; while that fails and make_room, with step 0, 1, ..., is
 * true, try again. Trying calls nobody and takes no lock. Making room calls the driver; false: there is no more, and a refusal has been counted. */
bool mica_charge_try(int gpu, uint64_t bytes);
bool mica_charge_make_room(int gpu, uint64_t bytes, int step);
/* Charge what the driver has taken and cannot give back, over the limit too. */
void mica_charge_taken(int gpu, uint64_t bytes);
/* `charged` bytes are charged and the driver took `took`: make them equal. False when they do not fit: `charged` stays as it is, to be released once the
 * driver has its memory back. */
bool mica_charge_correct(int gpu, uint64_t charged, uint64_t took);

/* What every allocating call does first: are limits in force? */
CUresult mica_memory_begin(void);
/* For a GPU that is not in the limits: the error, or 0 and MICA_GPU_NONE where the driver alone decides. */
CUresult mica_memory_usable(int *gpu, CUresult error);
/* Both, for the GPU of the current context. */
CUresult mica_memory_gate(int *gpu);
/* The current context, NULL when there is none. */
CUcontext mica_memory_context(void);

/* Allocations with an address. False when there is no room to remember it. */
bool mica_memory_remember(CUdeviceptr pointer, uint64_t bytes, int gpu, void *owner, enum mica_kind kind);
/* Another process may have this allocation open; `place` is the export's in the region. */
void mica_memory_exported(CUdeviceptr base, unsigned place);

/* Before a context is destroyed: mark its allocations, which can still be freed. After: it is gone and they with it, or they are its own again. */
const void *mica_memory_mark(CUcontext context);
void mica_memory_settle(const void *mark, CUcontext context, bool gone);

/* pool.c. What an allocation from a pool was freed by; unused memory given back to the card (trim: also what the program lets pools keep). */
struct mica_pool_record;
void mica_pool_freed(struct mica_pool_record *record);
void mica_pools_settle(void);
/* The program got a pool that it did not make. gpu: MICA_GPU_NONE for host memory. */
void mica_pool_noted(CUmempool pool, int gpu);
/* The host waited for the card, for all of its work or for some. */
void mica_pools_waited(bool for_everything);
void mica_pools_trim(int gpu);
CUdevice mica_device_of_stream(CUstream stream);

/* array.c */
void mica_arrays_mark(CUcontext context, const void *mark);
void mica_arrays_settle(const void *mark, CUcontext context, bool gone);

/* graph_memory.c. A captured stream or a graph got memory of its own. */
void mica_graph_memory_noted(void);
void mica_graph_memory_trim(int gpu);

/* A forked child has none of its parent's memory. */
void mica_memory_forked(void);
void mica_pools_forked(void);
void mica_vmm_forked(void);
void mica_arrays_forked(void);
void mica_graph_memory_forked(void);
void mica_imports_forked(void);

#endif
