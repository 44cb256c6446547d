/* Where the real driver may be. Order: the limits file; without one MICA_DRIVER; LD_LIBRARY_PATH; the loader's cache; the usual directories.
 * The caller skips candidates that are this library. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver.h"
#include "limits.h"

static const char SONAME[] = "libcuda.so.1";

static bool in_directory(const char *dir, size_t length, bool (*try)(const char *path, void *context), void *context)
{
    char path[1024];
    if (!length || length + sizeof SONAME + 1 > sizeof path || dir[0] != '/')
        return false;
    snprintf(path, sizeof path, "%.*s/%s", (int)length, dir, SONAME);
    return try(path, context);
}

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

static bool search_cache(const char *at, size_t size, bool (*try)(const char *path, void *context), void *context)
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
        const bool ours_abi = (entry.flags & 0xffff) == 0x0303; /* libc6, x86-64 */
        if (inside && ours_abi && strcmp(start + entry.key, SONAME) == 0 && try(start + entry.value, context))
            return true;
    }
    return false;
}

static bool from_cache(bool (*try)(const char *path, void *context), void *context)
{
    int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
    struct stat st;
    bool found = false;
    if (fd < 0)
        return false;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at != MAP_FAILED) {
            found = search_cache(at, (size_t)st.st_size, try, context);
            munmap(at, (size_t)st.st_size);
        }
    }
    close(fd);
    return found;
}

bool mica_find_driver(bool (*try)(const char *path, void *context), void *context)
{
    static const char *const usual[] = {"/usr/lib/mica/driver", "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64",
                                        "/usr/lib", "/lib", "/usr/local/nvidia/lib64", "/usr/local/cuda/compat"};
    const char *path, *named = NULL;
    struct mica_limits limits;
    struct stat st;
    char error[160];
    if (mica_limits_source(&path) == MICA_SOURCE_FILE) {
        if (mica_limits_read(path, &limits, &st, error, sizeof error) && limits.driver[0])
            return try(limits.driver, context); /* named by the agent: nothing else will do */
    } else {
        named = secure_getenv("MICA_DRIVER");
    }
    if (named && *named)
        return try(named, context);
    const char *list = secure_getenv("LD_LIBRARY_PATH");
    while (list && *list) {
        size_t length = strcspn(list, ":;");
        if (in_directory(list, length, try, context))
            return true;
        list += length + (list[length] != '\0');
    }
    if (from_cache(try, context))
        return true;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (in_directory(usual[i], strlen(usual[i]), try, context))
            return true;
    return false;
}
