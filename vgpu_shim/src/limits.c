/* See limits.h. */
#include "limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char LIMITS_DIR[] = "/run/mica/limits";
static const char LIMITS_FILE[] = "/run/mica/limits/limits";

bool mica_limits_managed(void)
{
    struct stat st;
    return stat(LIMITS_DIR, &st) == 0 || (errno != ENOENT && errno != ENOTDIR); /* not to be seen is not absent */
}

enum mica_source mica_limits_source(const char **path)
{
    if (mica_limits_managed()) {
        *path = LIMITS_FILE;
        return MICA_SOURCE_FILE;
    }
    *path = secure_getenv("MICA_LIMITS_FILE");
    return *path && **path ? MICA_SOURCE_FILE : MICA_SOURCE_ENV;
}

static bool number(const char *text, uint64_t high, uint64_t *out)
{
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *out = value;
    return !errno && !*end && value <= high;
}

bool mica_limits_bytes(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char digits[24];
    size_t length = strspn(text, "0123456789");
    if (!length || length >= sizeof digits)
        return false;
    memcpy(digits, text, length);
    digits[length] = '\0';
    const char *unit = text + length;
    const char *at = *unit ? strchr(units, *unit) : NULL;
    if (*unit && (!at || (unit[1] && strcmp(unit + 1, "iB") != 0)))
        return false;
    unsigned shift = at ? 10 * (unsigned)(at - units + 1) : 0;
    uint64_t value;
    if (!number(digits, MICA_USED_MASK >> shift, &value))
        return false;
    *bytes = value << shift;
    return true;
}

static bool copy(char *out, size_t size, const char *value)
{
    if (!*value || strlen(value) >= size)
        return false;
    memcpy(out, value, strlen(value) + 1);
    return true;
}

/* Position of a word in a list that ends with NULL, -1 when it is not there. */
static int word(const char *value, const char *const words[])
{
    for (int i = 0; words[i]; i++)
        if (strcmp(value, words[i]) == 0)
            return i;
    return -1;
}

/* How the card's time is shared out beyond the cap. 1 taken, 0 unknown, -1 bad value */
static int set_sharing(struct mica_limit *limit, const char *key, const char *value)
{
    static const char *const policies[] = {[MICA_POLICY_STRICT] = "strict", [MICA_POLICY_CONSERVING] = "conserving", NULL};
    static const char *const priorities[] = {
        [MICA_PRIORITY_NORMAL] = "normal", [MICA_PRIORITY_HIGH] = "high", [MICA_PRIORITY_LOW] = "low", NULL};
    uint64_t n;
    int found;
    if (strcmp(key, "weight") == 0) {
        bool ok = number(value, MICA_WEIGHT_MAX, &n) && n > 0;
        limit->weight = ok ? (uint32_t)n : 0;
        return ok ? 1 : -1;
    }
    if (strcmp(key, "policy") == 0) {
        limit->policy = (found = word(value, policies)) < 0 ? MICA_POLICY_STRICT : (uint32_t)found;
        return found < 0 ? -1 : 1;
    }
    if (strcmp(key, "priority") == 0) {
        limit->priority = (found = word(value, priorities)) < 0 ? MICA_PRIORITY_NORMAL : (uint32_t)found;
        return found < 0 ? -1 : 1;
    }
    return 0;
}

enum { HAS_UUID = 1, HAS_MEMORY = 2, HAS_CORES = 4, HAS_ALL = 7, NAMED = 8 };

/* 1 taken, 0 unknown, -1 bad value */
static int set_gpu(struct mica_limits *out, const char *key, const char *value, uint32_t *fields)
{
    char *rest;
    unsigned long index = strtoul(key, &rest, 10);
    if (*key < '0' || *key > '9' || *rest != '.' || index >= MICA_GPUS)
        return -1;
    struct mica_limit *limit = &out->gpu[index];
    uint64_t n;
    rest++;
    fields[index] |= NAMED;
    if (strcmp(rest, "uuid") == 0) {
        fields[index] |= HAS_UUID;
        return copy(limit->uuid, sizeof limit->uuid, value) ? 1 : -1;
    }
    if (strcmp(rest, "memory") == 0) {
        fields[index] |= HAS_MEMORY;
        return number(value, MICA_USED_MASK, &limit->memory) && limit->memory > 0 ? 1 : -1;
    }
    if (strcmp(rest, "cores") == 0) {
        fields[index] |= HAS_CORES;
        bool ok = number(value, 100, &n);
        limit->cores = ok ? (uint32_t)n : 0;
        return ok ? 1 : -1;
    }
    return set_sharing(limit, rest, value);
}

static int set(struct mica_limits *out, const char *key, const char *value, uint32_t *fields)
{
    uint64_t n;
    if (strcmp(key, "version") == 0)
        return strcmp(value, "1") == 0 ? 1 : -1;
    if (strcmp(key, "generation") == 0)
        return number(value, UINT64_MAX, &out->generation) ? 1 : -1;
    if (strcmp(key, "mode") == 0) {
        out->enforce = strcmp(value, "report") != 0;
        return !out->enforce || strcmp(value, "enforce") == 0 ? 1 : -1;
    }
    if (strcmp(key, "oversubscribe") == 0) {
        out->oversubscribe = strcmp(value, "true") == 0;
        return out->oversubscribe || strcmp(value, "false") == 0 ? 1 : -1;
    }
    if (strcmp(key, "driver") == 0)
        return value[0] == '/' && copy(out->driver, sizeof out->driver, value) ? 1 : -1;
    if (strcmp(key, "gpus") == 0) {
        bool ok = number(value, MICA_GPUS, &n);
        out->gpus = ok ? (uint32_t)n : 0;
        return ok ? 1 : -1;
    }
    if (strncmp(key, "gpu.", 4) == 0)
        return set_gpu(out, key + 4, value, fields);
    return strcmp(key, "pod") == 0 || strcmp(key, "container") == 0;
}

static void trim(char **text)
{
    while (**text == ' ' || **text == '\t')
        (*text)++;
    for (size_t n = strlen(*text); n && strchr(" \t\r", (*text)[n - 1]); n--)
        (*text)[n - 1] = '\0';
}

/* Every GPU below the count is described whole, and none beyond it. */
static bool complete(const struct mica_limits *limits, const uint32_t *fields, char *error, size_t error_bytes)
{
    for (uint32_t g = 0; g < MICA_GPUS; g++) {
        if (g < limits->gpus && (fields[g] & HAS_ALL) != HAS_ALL) {
            snprintf(error, error_bytes, "gpu.%u needs uuid, memory and cores", g);
            return false;
        }
        if (g >= limits->gpus && fields[g]) {
            snprintf(error, error_bytes, "gpu.%u is beyond gpus=%u: raise gpus or take its lines out", g, limits->gpus);
            return false;
        }
    }
    return true;
}

bool mica_limits_parse(char *text, struct mica_limits *out, char *error, size_t error_bytes)
{
    uint32_t fields[MICA_GPUS] = {0};
    bool version = false, gpus = false;
    memset(out, 0, sizeof *out);
    out->enforce = true;
    for (int g = 0; g < MICA_GPUS; g++)
        out->gpu[g].weight = MICA_WEIGHT_DEFAULT;
    char *next = text;
    for (int n = 1; next; n++) {
        char *key = next;
        next = strchr(next, '\n');
        if (next)
            *next++ = '\0';
        char *comment = strchr(key, '#');
        if (comment)
            *comment = '\0';
        trim(&key);
        if (!*key)
            continue;
        char *value = strchr(key, '=');
        if (!value) {
            snprintf(error, error_bytes, "line %d is not key=value", n);
            return false;
        }
        *value++ = '\0';
        trim(&key);
        trim(&value);
        int taken = set(out, key, value, fields);
        if (taken < 0) {
            snprintf(error, error_bytes, "line %d has a bad value: %.60s=%.60s", n, key, value);
            return false;
        }
        if (!taken && !out->have_unknown_key) {
            out->have_unknown_key = true;
            snprintf(out->unknown_key, sizeof out->unknown_key, "%.31s", key);
        }
        version = version || strcmp(key, "version") == 0;
        gpus = gpus || strcmp(key, "gpus") == 0;
    }
    if (!version || !gpus) {
        snprintf(error, error_bytes, "version=1 or gpus= is missing (cut short?)");
        return false;
    }
    return complete(out, fields, error, error_bytes);
}

bool mica_limits_read(const char *path, struct mica_limits *out, struct stat *seen, char *error, size_t error_bytes)
{
    char text[8192];
    size_t length = 0;
    ssize_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, seen) != 0) {
        snprintf(error, error_bytes, "cannot be read: errno %d", errno);
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (length < sizeof text - 1 && (got = read(fd, text + length, sizeof text - 1 - length)) != 0) {
        if (got < 0 && errno != EINTR)
            break;
        length += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    text[length] = '\0';
    if (got < 0 || length == sizeof text - 1 || strlen(text) != length) {
        snprintf(error, error_bytes, "is not a limits file (too long, binary or unreadable)");
        return false;
    }
    return mica_limits_parse(text, out, error, error_bytes);
}

bool mica_limits_from_env(struct mica_limits *out, char *error, size_t error_bytes)
{
    const char *memory = secure_getenv("MICA_MEMORY"), *cores = secure_getenv("MICA_CORES");
    uint64_t percent = 0;
    memset(out, 0, sizeof *out);
    out->enforce = true;
    out->gpu[0].memory = MICA_USED_MASK;
    out->gpu[0].weight = MICA_WEIGHT_DEFAULT;
    if ((!memory || !*memory) && (!cores || !*cores)) {
        snprintf(error, error_bytes, "no limits file; set MICA_MEMORY (such as 4GiB) or MICA_CORES (percent) to run without an agent");
        return false;
    }
    if (memory && *memory && (!mica_limits_bytes(memory, &out->gpu[0].memory) || !out->gpu[0].memory)) {
        snprintf(error, error_bytes, "MICA_MEMORY=%.40s is not an amount such as 4GiB, 512MiB or 1073741824", memory);
        return false;
    }
    if (cores && *cores && !number(cores, 100, &percent)) {
        snprintf(error, error_bytes, "MICA_CORES=%.40s is not a percentage from 0 to 100", cores);
        return false;
    }
    out->gpu[0].cores = (uint32_t)percent;
    const char *oversubscribe = secure_getenv("MICA_OVERSUBSCRIBE");
    out->oversubscribe = oversubscribe && strcmp(oversubscribe, "true") == 0;
    if (oversubscribe && *oversubscribe && !out->oversubscribe && strcmp(oversubscribe, "false") != 0) {
        snprintf(error, error_bytes, "MICA_OVERSUBSCRIBE=%.40s is neither true nor false", oversubscribe);
        return false;
    }
    return true;
}
