/* What the arbiter finds in a directory of slices: scans DIRECTORY. One line of JSON for two scans one after the other: whether each found a change. */
#include <stdio.h>

#include "../../../../vgpu_shim/arbiter/containers.c"
#include "../../../../vgpu_shim/src/limits.c"

int main(int argc, char **argv)
{
    const struct source source = {.slices = argc > 1 ? argv[1] : "."};
    const bool first = containers_scan(&source), second = containers_scan(&source);
    printf("[%d, %d]\n", first, second);
    return 0;
}
