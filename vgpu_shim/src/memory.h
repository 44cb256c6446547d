/* Charging memory to the slice. */
#ifndef MICA_MEMORY_H
#define MICA_MEMORY_H

#include "slice.h"
#include "table.h"

/* Reserve bytes of a GPU's slice; false when they do not fit. */
bool mica_charge(int gpu, uint64_t bytes);
/* What every allocating call does first: limits in force, GPU of the current context. */
CUresult mica_memory_gate(int *gpu);
/* The context is gone and its allocations with it. */
void mica_memory_forget(CUcontext context);

#endif
