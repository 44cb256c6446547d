/* Which node page is believed, and where it is looked for: pages PAGE. One line of JSON: whether the page is believed when it belongs to somebody else
 * (without an agent, with one and a mount that can be written, with one and a read-only mount), and the path when the agent's directory cannot be
 * looked at. What the kernel would say is made up. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static int agent; /* errno of looking at its directory, 0: it is there */
static unsigned long mount_flags;

static int look_at(const char *path, struct stat *st)
{
    if (strcmp(path, "/run/mica/limits") != 0)
        return stat(path, st);
    errno = agent;
    return agent ? -1 : 0;
}

static int look_at_open(int fd, struct stat *st)
{
    int result = fstat(fd, st);
    st->st_uid = 65534;
    return result;
}

static int look_at_mount(int fd, struct statvfs *out)
{
    (void)fd;
    out->f_flag = mount_flags;
    return 0;
}

#define stat(path, st) look_at(path, st)
#define fstat(fd, st) look_at_open(fd, st)
#define fstatvfs(fd, out) look_at_mount(fd, out)
#include "../../../../vgpu_shim/src/limits.c"
#include "../../../../vgpu_shim/src/lease.c"

bool mica_ledger_file(uint64_t *inode, uint64_t *device)
{
    (void)inode, (void)device;
    return false;
}

static bool believes(const char *path, int directory, unsigned long flags)
{
    struct stat seen;
    agent = directory;
    mount_flags = flags;
    return map(path, &seen) != NULL;
}

int main(int argc, char **argv)
{
    char path[512];
    const char *page = argc > 1 ? argv[1] : "";
    const bool alone = believes(page, ENOENT, ST_RDONLY), writable = believes(page, 0, 0), mounted = believes(page, 0, ST_RDONLY);
    agent = EACCES;
    (void)page_path(path, sizeof path);
    printf("[%d, %d, %d, \"%s\"]\n", alone, writable, mounted, path);
    return 0;
}
