/* The node page: what the node's arbiter says to every container about whose turn it is on each card. Written by mica-arbiter alone, mapped
 * read-only by everybody else. The table in ../README.md is the same in words. */
#ifndef MICA_NODE_H
#define MICA_NODE_H

#include "region.h"

#define MICA_NODE_MAGIC "MICANOD1"
enum { MICA_NODE_VERSION = 1, MICA_NODE_CONTAINERS = 512, MICA_NODE_BYTES = 561152 };
#define MICA_NODE_STALE_NS UINT64_C(200000000) /* a heartbeat older than this: nobody is there, containers go by their own balance */
#define MICA_TURN_OPEN UINT64_MAX               /* until: no turns are taken on this card */

/* One container's rights on one of its GPUs. */
struct mica_node_grant {
    _Atomic uint64_t until; /* may launch before this time (CLOCK_MONOTONIC, ns); MICA_TURN_OPEN; 0 = wait */
    _Atomic uint64_t epoch; /* rises with every turn */
    _Atomic uint32_t changes; /* futex: rises and is woken when `until` changes for the better */
    uint32_t reserved0;
    uint64_t reserved[5];
};

struct mica_node_container {
    _Atomic uint64_t inode, device; /* of its usage region; inode 0 = unused */
    uint64_t reserved[6];
    struct mica_node_grant gpus[MICA_GPUS]; /* in the order of its limits file */
};

struct mica_node {
    char magic[8];
    uint32_t version, containers_max, container_bytes, reserved0;
    uint64_t size;
    uint64_t started_at;
    _Atomic uint64_t heartbeat; /* CLOCK_MONOTONIC, ns */
    uint64_t reserved[506];
    struct mica_node_container containers[MICA_NODE_CONTAINERS];
};

_Static_assert(sizeof(struct mica_node_grant) == 64, "grant");
_Static_assert(offsetof(struct mica_node_grant, changes) == 16, "grant.changes");
_Static_assert(sizeof(struct mica_node_container) == 1088, "container");
_Static_assert(offsetof(struct mica_node_container, gpus) == 64, "container.gpus");
_Static_assert(offsetof(struct mica_node, size) == 24, "size");
_Static_assert(offsetof(struct mica_node, heartbeat) == 40, "heartbeat");
_Static_assert(offsetof(struct mica_node, containers) == 4096, "containers");
_Static_assert(sizeof(struct mica_node) == MICA_NODE_BYTES, "node page");

#endif
