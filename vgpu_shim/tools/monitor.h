/* gpu-monitor's parts: reading the slice from outside (monitor_read.c) and showing it (monitor_print.c, which knows nothing but values). */
#ifndef MICA_MONITOR_H
#define MICA_MONITOR_H

#include <stdio.h>

#include "../src/ledger.h"

/* A copy of the region as its file was at one moment, and which slots' processes lived. */
struct sample {
    uint64_t at; /* ns */
    bool there;  /* false: nothing has used a GPU yet */
    bool alive[MICA_SLOTS];
    struct mica_region region;
};

struct reader {
    struct mica_limits limits;
    int fd; /* of the region, -1 while there is none */
};

/* Read limits and region again; false with words. Nothing in the file can do more harm than show wrong figures: it is copied, not mapped. */
bool monitor_read(struct reader *reader, struct sample *sample, char *error, size_t error_bytes);

struct style {
    bool json;
    bool details; /* table only: JSON always has them */
};

/* Show what was used between two samples, and held at the later one. */
void monitor_print(FILE *out, const struct style *style, const struct mica_limits *limits, const struct sample *before, const struct sample *after);

#endif
