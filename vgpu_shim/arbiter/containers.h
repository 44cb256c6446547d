/* The containers of a node as the arbiter sees them: found by their usage regions, read with pread (a region may be truncated under us, and a mapping
 * would then end this process). */
#ifndef MICA_CONTAINERS_H
#define MICA_CONTAINERS_H

#include <sys/stat.h>

#include "../src/limits.h"
#include "turns.h"

struct container {
    int fd; /* of its region, -1 = the place is free */
    bool seen;
    uint64_t inode, device;
    struct stat limits_seen;
    char name[256];
    uint32_t gpus;
    char uuid[MICA_GPUS][48];
    struct contender gpu[MICA_GPUS];
};

/* Where regions are: the node agent's directory of slices, or one with stand-alone regions. */
struct source {
    const char *slices; /* DIR/KEY/usage/region and DIR/KEY/limits/limits; NULL = none */
    const char *alone;  /* DIR/mica-UID-NAME.region of this user; NULL = none */
};

extern struct container containers[MICA_NODE_CONTAINERS];

/* Find new containers, drop those that are gone, read limits that changed. True when who is on which card may have changed. */
bool containers_scan(const struct source *source);
/* Read what a container says of one of its GPUs. */
void containers_read(struct container *container, unsigned gpu);
/* Ask the kernel whether any process of the container lives. */
void containers_probe(struct container *container);

#endif
