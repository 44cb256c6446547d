/* What a container may use, and where that is written. Parsing is a pure function of text; nothing here talks to a driver. */
#ifndef MICA_LIMITS_H
#define MICA_LIMITS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "region.h"

struct mica_limit {
    char uuid[48];
    uint64_t memory; /* bytes */
    uint32_t cores;  /* percent, 0 = uncapped */
    uint32_t weight; /* of what capped containers leave, 1 to MICA_WEIGHT_MAX */
    uint32_t policy, priority; /* MICA_POLICY_*, MICA_PRIORITY_* */
};

struct mica_limits {
    uint64_t generation;
    bool enforce;
    bool oversubscribe; /* managed memory may pass the physical share */
    char driver[256];
    uint32_t gpus;
    bool have_unknown_key;
    char unknown_key[32];
    struct mica_limit gpu[MICA_GPUS];
};

enum mica_source {
    MICA_SOURCE_FILE, /* the agent's file, or the one named by MICA_LIMITS_FILE on a machine without an agent's directory */
    MICA_SOURCE_ENV   /* MICA_MEMORY and MICA_CORES: one limit for every device */
};

/* True where the node agent's directory is mounted: then nothing that the tenant can set counts, even when the file is missing. */
bool mica_limits_managed(void);
/* Where limits come from in this process. For MICA_SOURCE_FILE, `path` is set. */
enum mica_source mica_limits_source(const char **path);
/* Parse a limits file; false with the reason. */
bool mica_limits_parse(char *text, struct mica_limits *out, char *error, size_t error_bytes);
/* Read and parse a file; `seen` is its identity before reading. */
bool mica_limits_read(const char *path, struct mica_limits *out, struct stat *seen, char *error, size_t error_bytes);
/* Limits from MICA_MEMORY and MICA_CORES, in gpu[0]; gpus is 0. */
bool mica_limits_from_env(struct mica_limits *out, char *error, size_t error_bytes);
/* Bytes from "3221225472", "3GiB", "512MiB", "3G"; false when it is none. */
bool mica_limits_bytes(const char *text, uint64_t *bytes);

#endif
