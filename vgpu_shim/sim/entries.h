/* The table of entries.c. */
#ifndef MICA_SIM_ENTRIES_H
#define MICA_SIM_ENTRIES_H

#include <stdbool.h>
#include <stddef.h>

struct sim_entry {
    const char *name;
    int version;
    bool per_thread;
    void *function;
};
extern const struct sim_entry sim_entries[];
extern const size_t sim_entry_count;

#endif
