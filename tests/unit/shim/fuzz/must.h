/* What has to hold after any input; a fuzzer sees the trap. */
#ifndef MUST_H
#define MUST_H

#include <stdio.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            __builtin_trap(); \
        } \
    } while (0)

#endif
