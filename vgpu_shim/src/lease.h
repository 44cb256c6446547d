/* What the node's arbiter says: whose turn it is on a card. Without one, or when its heartbeat stops, there are no turns. */
#ifndef MICA_LEASE_H
#define MICA_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#define MICA_LEASE_OPEN INT64_MAX

/* Find the node page and this container's place in it; cheap when nothing changed. Called about every 100 ms. */
void mica_lease_look(uint64_t now);
/* True while an arbiter is there. */
bool mica_lease_arbiter(uint64_t now);
/* Nanoseconds that this container may still launch on its GPU: 0 = not its turn, MICA_LEASE_OPEN = no turns are taken. */
int64_t mica_lease_rest(int gpu, uint64_t now);
/* Sleep until the turn may have come, at most `ns`. */
void mica_lease_wait(int gpu, uint64_t ns);
/* A forked child: who was looking is not here. */
void mica_lease_forked(void);

#endif
