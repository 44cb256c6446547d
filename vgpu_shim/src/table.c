/* See table.h: open addressing, linear probing, deletion by shifting back, doubled at 70 % full. */
#include "table.h"

#include <sys/mman.h>

static size_t place(const struct mica_table *table, uint64_t key)
{
    return (size_t)((key ^ key >> 21) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (table->room - 1);
}

static void insert(struct mica_table *table, const struct mica_entry *entry, struct mica_entry *old)
{
    size_t at = place(table, entry->key);
    while (table->entries[at].key && table->entries[at].key != entry->key)
        at = (at + 1) & (table->room - 1);
    if (old)
        *old = table->entries[at];
    table->count += table->entries[at].key == 0;
    table->entries[at] = *entry;
}

static bool grow(struct mica_table *table)
{
    size_t room = table->room ? table->room * 2 : 1024;
    void *fresh = mmap(NULL, room * sizeof(struct mica_entry), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED)
        return false;
    struct mica_table old = *table;
    table->entries = fresh;
    table->room = room;
    table->count = 0;
    for (size_t i = 0; i < old.room; i++)
        if (old.entries[i].key)
            insert(table, &old.entries[i], NULL);
    if (old.entries)
        munmap(old.entries, old.room * sizeof *old.entries);
    return true;
}

bool mica_table_swap(struct mica_table *table, const struct mica_entry *entry, struct mica_entry *old)
{
    mica_acquire(&table->lock);
    bool ok = entry->key && (table->count * 10 < table->room * 7 || grow(table));
    if (ok)
        insert(table, entry, old);
    mica_release(&table->lock);
    return ok;
}

bool mica_table_put(struct mica_table *table, const struct mica_entry *entry)
{
    return mica_table_swap(table, entry, NULL);
}

struct mica_entry *mica_table_find(struct mica_table *table, uint64_t key)
{
    if (!table->room || !key)
        return NULL;
    size_t at = place(table, key);
    while (table->entries[at].key && table->entries[at].key != key)
        at = (at + 1) & (table->room - 1);
    return table->entries[at].key ? &table->entries[at] : NULL;
}

static void erase(struct mica_table *table, struct mica_entry *entry)
{
    size_t hole = (size_t)(entry - table->entries), mask = table->room - 1;
    for (size_t at = (hole + 1) & mask; table->entries[at].key; at = (at + 1) & mask) {
        size_t home = place(table, table->entries[at].key);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            table->entries[hole] = table->entries[at];
            hole = at;
        }
    }
    table->entries[hole].key = 0;
    table->count--;
}

bool mica_table_take(struct mica_table *table, uint64_t key, struct mica_entry *out)
{
    mica_acquire(&table->lock);
    struct mica_entry *entry = mica_table_find(table, key);
    if (entry) {
        *out = *entry;
        erase(table, entry);
    }
    mica_release(&table->lock);
    return entry != NULL;
}

bool mica_table_take_owned(struct mica_table *table, const void *owner, struct mica_entry *out)
{
    bool found = false;
    mica_acquire(&table->lock);
    for (size_t i = 0; !found && i < table->room; i++)
        if (table->entries[i].key && table->entries[i].owner == owner) {
            *out = table->entries[i];
            erase(table, &table->entries[i]);
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
