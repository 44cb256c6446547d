/* The usage region as this process uses it: attach, take a slot, reserve and release bytes, find the dead. Layout: include/region.h. */
#ifndef MICA_LEDGER_H
#define MICA_LEDGER_H

#include <stdbool.h>

#include "limits.h"
#include "region.h"

/* The region, NULL before mica_ledger_attach succeeded. */
extern struct mica_region *mica_region;

/* Open and, where that is ours to do, create the region; take a slot. False with the reason. */
bool mica_ledger_attach(enum mica_source source, char *error, size_t error_bytes);
/* Path of the region. create: no agent made it, so this process may. */
const char *mica_ledger_path(enum mica_source source, char *buffer, size_t bytes, bool *create);
/* The region in a file, mapped; made where nothing is and, with create, where something else is that no process uses. The caller has byte 0
 * locked. NULL with the reason. */
struct mica_region *mica_region_prepare(int fd, bool create, char *error, size_t error_bytes);
/* True when the bytes are a region of this version. */
bool mica_ledger_valid(const struct mica_region *region);
/* True while the process of a slot lives; fd is any descriptor of the region file, not the one that took the slot. */
bool mica_ledger_slot_alive(int fd, unsigned slot);

/* Charge bytes to a GPU. False when they do not fit below limit (only with enforce), or this process has no slot: nothing is charged then. */
bool mica_ledger_charge(int gpu, uint64_t bytes, uint64_t limit, bool enforce);
/* Count an allocation that was refused. */
void mica_ledger_deny(int gpu);
/* What this process was ever charged, and what of it was released, each a running sum: the difference is what it is charged for. Whoever reads the
 * second before a moment and the first after it has at least what was charged at that moment. */
uint64_t mica_ledger_charged(int gpu);
uint64_t mica_ledger_released(int gpu);
void mica_ledger_release(int gpu, uint64_t bytes);
uint64_t mica_ledger_used(int gpu);
enum mica_part { MICA_CONTEXT, MICA_MODULE };
/* Of what this process is charged for: contexts and modules. For the eye only, `used` has it already. */
uint64_t mica_ledger_overhead(int gpu, enum mica_part part);
void mica_ledger_add_overhead(int gpu, enum mica_part part, int64_t change);
void mica_ledger_busy(int gpu, uint64_t ns);
/* This process's slot + 1 and its generation, which no other ever has; 0 without a slot. */
uint64_t mica_ledger_identity(void);
/* Memory shared inside the container (struct mica_region_export). export: note that this process shares memory; its place, -1 without a slot.
 * find: the place of a handle, -1 when no process of this container shared it. adopt: true when nobody was charged any more and this process
 * is from now on. drop: this process is no longer charged; handle 0: whatever the handle is. */
int mica_ledger_export(uint64_t handle);
int mica_ledger_find_export(uint64_t handle);
bool mica_ledger_adopt_export(int place, uint64_t handle);
void mica_ledger_drop_export(int place, uint64_t handle);
/* Identity of the region file; false before it is open. */
bool mica_ledger_file(uint64_t *inode, uint64_t *device);
/* This process's slot, NULL while it has none; whether any slot is between two updates. */
struct mica_region_slot *mica_ledger_slot(void);
bool mica_ledger_pending(void);
/* Give back what dead processes of this container held. */
void mica_ledger_reap(void);
/* A forked child has no slot until it attaches again. */
void mica_ledger_forked(void);

/* Allocating and freeing calls of this process, with what is charged for them: low half those under way, upper half those that ended. Whoever
 * compares what the driver took with what is charged looks only while none is under way. */
extern _Atomic uint64_t mica_activity;
static inline void mica_activity_begin(void)
{
    atomic_fetch_add_explicit(&mica_activity, 1, memory_order_acquire);
}
static inline void mica_activity_end(void)
{
    atomic_fetch_add_explicit(&mica_activity, (UINT64_C(1) << 32) - 1, memory_order_release);
}

#endif
