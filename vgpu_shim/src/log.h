/* One line on stderr, with write(2) only: no stdio, no allocation, safe from any hook. */
#ifndef MICA_LOG_H
#define MICA_LOG_H

#include <stdatomic.h>

void mica_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Log the first time this line of code is reached in the process. */
#define MICA_LOG_ONCE(...) \
    do { \
        static atomic_flag told = ATOMIC_FLAG_INIT; \
        if (!atomic_flag_test_and_set(&told)) \
            mica_log(__VA_ARGS__); \
    } while (0)

#endif
