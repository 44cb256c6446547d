/* Where the real driver and the real NVML may be. Order: the limits file; without one MICA_DRIVER or MICA_NVML; LD_LIBRARY_PATH; the loader's
 * cache; the usual directories. The caller skips candidates that are this library. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "find.h"
#include "limits.h"

static const struct {
    const char *soname, *variable;
} sought[] = {[MICA_FIND_DRIVER] = {"libcuda.so.1", "MICA_DRIVER"}, [MICA_FIND_NVML] = {"libnvidia-ml.so.1", "MICA_NVML"}};

struct search {
    const char *soname;
    bool (*try)(const char *path, void *context);
    void *context;
};

static bool in_directory(const char *dir, size_t length, const struct search *s)
{
    char path[1024];
    if (!length || length + strlen(s->soname) + 2 > sizeof path || dir[0] != '/')
        return false;
    snprintf(path, sizeof path, "%.*s/%s", (int)length, dir, s->soname);
    return s->try(path, s->context);
}

#ifdef __aarch64__
#define TRIPLET "aarch64-linux-gnu"
enum { OUR_ABI = 0x0a03 }; /* libc6, AArch64 */
#else
#define TRIPLET "x86_64-linux-gnu"
enum { OUR_ABI = 0x0303 }; /* libc6, x86-64 */
#endif

/* The loader's cache, format 1.1: a header, entries, strings; offsets count from the header. */
struct cache_header {
    char magic[20];
    uint32_t entries;
    uint32_t strings;
    uint32_t unused[5];
};
struct cache_entry {
    int32_t flags;
    uint32_t key, value, os_version;
    uint64_t hardware;
};

static bool search_cache(const char *at, size_t size, const struct search *s)
{
    static const char MAGIC[] = "glibc-ld.so.cache1.1";
    const char *start = size > sizeof MAGIC ? memmem(at, size, MAGIC, sizeof MAGIC - 1) : NULL;
    if (!start)
        return false;
    size -= (size_t)(start - at);
    struct cache_header header;
    if (size < sizeof header)
        return false;
    memcpy(&header, start, sizeof header);
    if (header.entries > (size - sizeof header) / sizeof(struct cache_entry))
        return false;
    for (uint32_t i = 0; i < header.entries; i++) {
        struct cache_entry entry;
        memcpy(&entry, start + sizeof header + i * sizeof entry, sizeof entry);
        bool inside = entry.key < size && entry.value < size && memchr(start + entry.key, 0, size - entry.key)
            && memchr(start + entry.value, 0, size - entry.value);
        if (inside && (entry.flags & 0xffff) == OUR_ABI && strcmp(start + entry.key, s->soname) == 0 && s->try(start + entry.value, s->context))
            return true;
    }
    return false;
}

static bool from_cache(const struct search *s)
{
    int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
    struct stat st;
    bool found = false;
    if (fd < 0)
        return false;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at != MAP_FAILED) {
            found = search_cache(at, (size_t)st.st_size, s);
            munmap(at, (size_t)st.st_size);
        }
    }
    close(fd);
    return found;
}

/* In the limits file the agent names the driver, and NVML lies beside it: nothing else will do. */
static bool named_by_agent(const char *limits_path, const struct search *s, bool *named)
{
    struct mica_limits limits;
    struct stat st;
    char error[160];
    *named = mica_limits_read(limits_path, &limits, &st, error, sizeof error) && limits.driver[0];
    const char *slash = *named ? strrchr(limits.driver, '/') : NULL;
    if (!*named || s->soname == sought[MICA_FIND_DRIVER].soname)
        return *named && s->try(limits.driver, s->context);
    return slash && in_directory(limits.driver, (size_t)(slash - limits.driver), s);
}

bool mica_find_library(enum mica_find what, bool (*try)(const char *path, void *context), void *context)
{
    static const char *const usual[] = {"/usr/lib/mica/driver", "/usr/lib/" TRIPLET, "/lib/" TRIPLET, "/usr/lib64", "/lib64",
                                        "/usr/lib", "/lib", "/usr/local/nvidia/lib64", "/usr/local/cuda/compat"};
    const struct search search = {sought[what].soname, try, context};
    const char *path, *variable = NULL;
    bool named = false;
    if (mica_limits_source(&path) == MICA_SOURCE_FILE) {
        bool found = named_by_agent(path, &search, &named);
        if (named)
            return found;
    } else {
        variable = secure_getenv(sought[what].variable);
    }
    if (variable && *variable)
        return try(variable, context);
    const char *list = secure_getenv("LD_LIBRARY_PATH");
    while (list && *list) {
        size_t length = strcspn(list, ":;");
        if (in_directory(list, length, &search))
            return true;
        list += length + (list[length] != '\0');
    }
    if (from_cache(&search))
        return true;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (in_directory(usual[i], strlen(usual[i]), &search))
            return true;
    return false;
}
