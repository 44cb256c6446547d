/* A hash table from an address or handle to what is charged for it. One lock; memory from mmap, so that a hook never enters the
 * application's allocator. */
#ifndef MICA_TABLE_H
#define MICA_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "util.h"

struct mica_entry {
    uint64_t key; /* never 0 */
    uint64_t bytes;
    void *owner; /* context (allocations) or physical memory (mappings) */
    int gpu;
    unsigned kind;              /* allocations: enum mica_kind */
    unsigned handles, mappings; /* of physical memory; handles: an export's place in the region */
};

struct mica_table {
    mica_lock lock;
    struct mica_entry *entries;
    size_t room, count; /* room: a power of two, 2^(64 - shift) */
    unsigned shift;
};

/* Add, or replace the entry with that key: take it first where it stands for something. */
bool mica_table_put(struct mica_table *table, const struct mica_entry *entry);
/* The same, and what was there before goes to old (its key is 0 when there was nothing). */
bool mica_table_swap(struct mica_table *table, const struct mica_entry *entry, struct mica_entry *old);
/* Remove and return; false when the key is unknown. */
bool mica_table_take(struct mica_table *table, uint64_t key, struct mica_entry *out);
/* Give an owner's entries to another owner. */
void mica_table_reown(struct mica_table *table, const void *owner, void *other);
/* Start empty, in a forked child where another thread may have been at it. */
void mica_table_forked(struct mica_table *table);
/* Remove one entry of an owner; false when it has none. */
bool mica_table_take_owned(struct mica_table *table, const void *owner, struct mica_entry *out);
/* Lock held by the caller: */
/* The entry of a key, to be filled in; what was there goes to old. NULL without memory. */
struct mica_entry *mica_table_claim(struct mica_table *table, uint64_t key, struct mica_entry *old);
struct mica_entry *mica_table_find(struct mica_table *table, uint64_t key);

#endif
