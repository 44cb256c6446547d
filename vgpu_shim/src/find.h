/* Where the real libraries are. */
#ifndef MICA_FIND_H
#define MICA_FIND_H

#include <stdbool.h>

enum mica_find { MICA_FIND_DRIVER, MICA_FIND_NVML };

/* Call `try` with paths where the library may be until it returns true. */
bool mica_find_library(enum mica_find what, bool (*try)(const char *path, void *context), void *context);

#endif
