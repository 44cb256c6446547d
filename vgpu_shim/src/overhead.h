/* What contexts and modules take of a card beyond what the program allocates. */
#ifndef MICA_OVERHEAD_H
#define MICA_OVERHEAD_H

#include "slice.h"

/* A context is gone: what it took may be less now. */
void mica_overhead_refresh(void);
/* Now and then: code that is loaded when a kernel first runs, stacks that grow. */
void mica_overhead_tick(uint64_t now);
/* Bytes that are charged here and that the card's own count does not give this process: another API's memory. */
void mica_overhead_outside(int gpu, int64_t change);
/* Managed memory is charged whole and is on the card in parts: while there is some, what a process holds says nothing about its
 * overhead. change: of its bytes. */
void mica_overhead_managed(int gpu, int64_t change);
void mica_overhead_forked(void);

/* nvml.c: bytes of a card that the node's NVML attributes to this process; false where it does not say. */
bool mica_nvml_own_bytes(const char *uuid, uint64_t *bytes);
/* Find NVML, if that has not been tried. Called with no lock of ours held: the loader's own is held around constructors, which may wait for ours. */
void mica_nvml_load(void);
void mica_nvml_forked(void);

#endif
