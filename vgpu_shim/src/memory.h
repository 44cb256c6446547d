/* Charging memory to the slice. */
#ifndef MICA_MEMORY_H
#define MICA_MEMORY_H

#include "slice.h"
#include "table.h"

/* Reserve bytes of a GPU's slice; false when they do not fit. */
bool mica_charge(int gpu, uint64_t bytes);
/* What every allocating call does first: limits in force, GPU of the current context. */
CUresult mica_memory_gate(int *gpu);
/* Before a context is destroyed: mark its allocations, which can still be freed. After: it is gone and they with it, or they are its own again. */
const void *mica_memory_mark(CUcontext context);
void mica_memory_settle(const void *mark, CUcontext context, bool gone);
/* A forked child has none of its parent's memory. */
void mica_memory_forked(void);
void mica_vmm_forked(void);

#endif
