/* The table of this driver's functions for lookups by name. Compiled without the private names: it holds the entry points. */
#include "../include/cuda_min.h"
#include "entries.h"

/* Written by gen_build.py: the functions of this driver, with the version each came in. Sorted by name, then version. */
const struct sim_entry sim_entries[] = {
#define MICA_ENTRY(symbol, base, version, per_thread) {#base, version, per_thread, (void *)symbol},
#include "sim_entries.inc"
};
const size_t sim_entry_count = sizeof sim_entries / sizeof sim_entries[0];
