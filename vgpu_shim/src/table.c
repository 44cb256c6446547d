/* See table.h: open addressing, linear probing, deletion by shifting back, doubled at 50 % full: then a new key meets one and a half
 * places on average, at 75 % it would be eight. */
#include "table.h"

#include <sys/mman.h>

#define NOWHERE SIZE_MAX

/* Fibonacci hashing (Knuth, TAOCP 6.4). Rotated: blocks that are 2 MiB apart, which is how drivers lay out large ones, are consecutive numbers, whose
 * places are as far apart as can be; small ones, 512 bytes apart, differ in the upper bits. */
static inline size_t place(const struct mica_table *table, uint64_t key)
{
    return (size_t)((key >> 21 | key << 43) * UINT64_C(0x9e3779b97f4a7c15) >> table->shift);
}

/* The entry of a key, made when there is none, with what it was in old (its key is 0 when there was nothing). */
static inline struct mica_entry *claim(struct mica_table *table, uint64_t key, struct mica_entry *old)
{
    struct mica_entry *entries = table->entries;
    const size_t mask = table->room - 1;
    size_t at = place(table, key);
    while (entries[at].key && entries[at].key != key)
        at = (at + 1) & mask;
    old->key = 0;
    if (MICA_UNLIKELY(entries[at].key != 0))
        *old = entries[at];
    else
        table->count++;
    entries[at].key = key;
    return &entries[at];
}

static void insert(struct mica_table *table, const struct mica_entry *entry, struct mica_entry *old)
{
    *claim(table, entry->key, old) = *entry;
}

static bool grow(struct mica_table *table)
{
    size_t room = table->room ? table->room * 2 : 1024;
    void *fresh = mmap(NULL, room * sizeof(struct mica_entry), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED)
        return false;
    struct mica_table old = *table;
    struct mica_entry none;
    table->entries = fresh;
    table->room = room;
    table->shift = 64 - (unsigned)__builtin_ctzll(room);
    table->count = 0;
    for (size_t i = 0; i < old.room; i++)
        if (old.entries[i].key)
            insert(table, &old.entries[i], &none);
    if (old.entries)
        munmap(old.entries, old.room * sizeof *old.entries);
    return true;
}

static inline bool has_room(struct mica_table *table)
{
    return MICA_LIKELY(table->count < table->room / 2) || grow(table);
}

struct mica_entry *mica_table_claim(struct mica_table *table, uint64_t key, struct mica_entry *old)
{
    return MICA_LIKELY(key != 0) && has_room(table) ? claim(table, key, old) : NULL;
}

bool mica_table_swap(struct mica_table *table, const struct mica_entry *entry, struct mica_entry *old)
{
    mica_acquire(&table->lock);
    bool ok = entry->key && has_room(table);
    if (ok)
        insert(table, entry, old);
    mica_release(&table->lock);
    return ok;
}

bool mica_table_put(struct mica_table *table, const struct mica_entry *entry)
{
    struct mica_entry old;
    return mica_table_swap(table, entry, &old);
}

/* Place of a key, or NOWHERE. */
static inline size_t find(const struct mica_table *table, uint64_t key)
{
    const size_t mask = table->room - 1;
    if (MICA_UNLIKELY(!table->room || !key))
        return NOWHERE;
    for (size_t at = place(table, key);; at = (at + 1) & mask) {
        const uint64_t there = table->entries[at].key;
        if (MICA_LIKELY(there == key))
            return at;
        if (!there)
            return NOWHERE;
    }
}

struct mica_entry *mica_table_find(struct mica_table *table, uint64_t key)
{
    size_t at = find(table, key);
    return at == NOWHERE ? NULL : &table->entries[at];
}

static inline void erase(struct mica_table *table, size_t hole)
{
    struct mica_entry *entries = table->entries;
    const size_t mask = table->room - 1;
    for (size_t at = (hole + 1) & mask; MICA_UNLIKELY(entries[at].key != 0); at = (at + 1) & mask) {
        size_t home = place(table, entries[at].key);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            entries[hole] = entries[at];
            hole = at;
        }
    }
    entries[hole].key = 0;
    table->count--;
}

bool mica_table_take(struct mica_table *table, uint64_t key, struct mica_entry *out)
{
    mica_acquire(&table->lock);
    const size_t at = find(table, key);
    if (MICA_LIKELY(at != NOWHERE)) {
        *out = table->entries[at];
        erase(table, at);
    }
    mica_release(&table->lock);
    return at != NOWHERE;
}

bool mica_table_take_owned(struct mica_table *table, const void *owner, struct mica_entry *out)
{
    bool found = false;
    mica_acquire(&table->lock);
    for (size_t i = 0; !found && i < table->room; i++)
        if (table->entries[i].key && table->entries[i].owner == owner) {
            *out = table->entries[i];
            erase(table, i);
            found = true;
        }
    mica_release(&table->lock);
    return found;
}

void mica_table_reown(struct mica_table *table, const void *owner, void *other)
{
    mica_acquire(&table->lock);
    for (size_t i = 0; i < table->room; i++)
        if (table->entries[i].key && table->entries[i].owner == owner)
            table->entries[i].owner = other;
    mica_release(&table->lock);
}

void mica_table_forked(struct mica_table *table)
{
    table->entries = NULL; /* the parent's pages are copied only when written: nothing to unmap for */
    table->room = table->count = 0;
    atomic_store(&table->lock, 0);
}
