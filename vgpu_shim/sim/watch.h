/* Between the entry points (entry.S) and watch.c. */
#ifndef MICA_SIM_WATCH_H
#define MICA_SIM_WATCH_H

#include <stdint.h>

/* Nonzero while calls must be looked at. */
extern int sim_watch;
/* Called before function `number`: the answer to give in its place, or -1. */
int sim_watched(int number, const uint64_t *arguments);

#endif
