/* An input as writes into a region: records of three bytes of address, one of length (1 to 16), and the bytes. */
#ifndef SCRIBBLE_H
#define SCRIBBLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Addresses 0 … 2^23 - 1 go to the header, the first GPUs and the first slots more often than their size says. */
static inline size_t address(const uint8_t *record, size_t bytes)
{
    size_t at = (size_t)record[0] | (size_t)record[1] << 8 | (size_t)record[2] << 16;
    return at >> 23 ? at % bytes : at % 24576 < bytes ? at % 24576 : at % bytes;
}

/* Write the records to `to` (NULL: only the clean bytes of `from` go back to `to2`). */
static inline void scribble(const uint8_t *data, size_t size, uint8_t *to, const uint8_t *clean, size_t bytes)
{
    for (size_t i = 0; i + 4 < size;) {
        size_t at = address(data + i, bytes), length = 1 + data[i + 3] % 16;
        length = length > size - i - 4 ? size - i - 4 : length;
        length = length > bytes - at ? bytes - at : length;
        if (clean)
            memcpy(to + at, clean + at, length);
        else
            memcpy(to + at, data + i + 4, length);
        i += 4 + (1 + data[i + 3] % 16u);
    }
}

#endif
