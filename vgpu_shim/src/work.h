/* Work that is on its way to the cards, as the region tells it: nanoseconds expected, and batches of launches that are not known to be over. Kept per
 * process too, so that what a dead process had is taken off. */
#ifndef MICA_WORK_H
#define MICA_WORK_H

#include "ledger.h"

void mica_work_add(int gpu, int64_t ns, int batches);
/* A slot is emptied: what it had on a GPU is no longer on its way. Its lock is held. */
void mica_work_drop(struct mica_region_slot *slot, int gpu);
/* Make the container's numbers the sum of the slots', if nothing moves meanwhile: a process that was killed between two words leaves them apart. */
void mica_work_recount(int gpu);

#endif
