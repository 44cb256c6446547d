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
/* True when the bytes are a region of this version. */
bool mica_ledger_valid(const struct mica_region *region);
/* True while the process of a slot lives; fd is any descriptor of the region file, not the one that took the slot. */
bool mica_ledger_slot_alive(int fd, unsigned slot);

/* Charge bytes to a GPU. With enforce, false (and one denial counted) when they do not fit below limit. */
bool mica_ledger_reserve(int gpu, uint64_t bytes, uint64_t limit, bool enforce);
void mica_ledger_release(int gpu, uint64_t bytes);
uint64_t mica_ledger_used(int gpu);
void mica_ledger_busy(int gpu, uint64_t ns);
/* Give back what dead processes of this container held. */
void mica_ledger_reap(void);
/* A forked child has no slot until it attaches again. */
void mica_ledger_forked(void);

#endif
