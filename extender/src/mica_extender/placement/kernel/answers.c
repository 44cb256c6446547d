/* Names out of the scheduler's request and answers out of verdicts, without a Python object per node. answers.py does the same. */
#include <string.h>

#include "fleet.h"

static uint64_t hash(const char *text, int64_t length)
{
    uint64_t value = 14695981039346656037u; /* FNV-1a */
    for (int64_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)text[i]) * 1099511628211u;
    return value ^ (value >> 32);
}

static int64_t name_length(const mica_names *names, int32_t row)
{
    return names->at[row + 1] - names->at[row];
}

void mica_index_names(const mica_names *names)
{
    for (int64_t i = 0; i <= names->mask; i++)
        names->slots[i] = -1;
    for (int32_t row = 0; row < names->rows; row++) {
        if (!name_length(names, row))
            continue;
        int64_t slot = (int64_t)(hash(names->text + names->at[row], name_length(names, row)) & (uint64_t)names->mask);
        while (names->slots[slot] >= 0)
            slot = (slot + 1) & names->mask;
        names->slots[slot] = row;
    }
}

static int32_t find(const mica_names *names, const char *text, int64_t length)
{
    int64_t slot = (int64_t)(hash(text, length) & (uint64_t)names->mask);
    for (int32_t row; (row = names->slots[slot]) >= 0; slot = (slot + 1) & names->mask)
        if (name_length(names, row) == length && !memcmp(names->text + names->at[row], text, (size_t)length))
            return row;
    return -1;
}

static int64_t skip_space(const char *raw, int64_t length, int64_t at)
{
    while (at < length && (raw[at] == ' ' || raw[at] == '\n' || raw[at] == '\t' || raw[at] == '\r'))
        at++;
    return at;
}

/* Where the plain string that begins at `at` ends; -1 when there is none. */
static int64_t string_end(const char *raw, int64_t length, int64_t at)
{
    if (at >= length || raw[at] != '"')
        return -1;
    for (at++; at < length; at++) {
        if (raw[at] == '"')
            return at + 1;
        if (raw[at] == '\\' || (unsigned char)raw[at] < ' ' || (unsigned char)raw[at] >= 127)
            return -1;
    }
    return -1;
}

int64_t mica_read_names(const mica_names *names, const char *raw, int64_t length, int64_t capacity, int32_t *rows,
                        int32_t *starts, int32_t *ends)
{
    int64_t count = 0, at = skip_space(raw, length, 0);
    if (at >= length || raw[at] != '[')
        return -1;
    at = skip_space(raw, length, at + 1);
    if (at < length && raw[at] == ']')
        return skip_space(raw, length, at + 1) == length ? 0 : -1;
    for (;;) {
        int64_t end = string_end(raw, length, at);
        if (end < 0 || count >= capacity)
            return -1;
        rows[count] = find(names, raw + at, end - at);
        starts[count] = (int32_t)at;
        ends[count++] = (int32_t)end;
        at = skip_space(raw, length, end);
        if (at >= length || (raw[at] != ',' && raw[at] != ']'))
            return -1;
        if (raw[at] == ']')
            return skip_space(raw, length, at + 1) == length ? count : -1;
        at = skip_space(raw, length, at + 1);
    }
}

static char *put(char *out, const char *text, int64_t length)
{
    memcpy(out, text, (size_t)length);
    return out + length;
}

#define PUT(out, literal) put(out, literal, sizeof literal - 1)

static char *put_failed(char *out, const char *raw, const int32_t *starts, const int32_t *ends, int64_t count,
                        const uint8_t *codes, const uint8_t *permanent, const mica_reasons *reasons, int wanted)
{
    int first = 1;
    for (int64_t i = 0; i < count; i++) {
        uint8_t code = codes[i];
        if (code == MICA_FITS || !permanent[i] != !wanted)
            continue;
        if (!first)
            *out++ = ',';
        first = 0;
        out = put(out, raw + starts[i], ends[i] - starts[i]);
        *out++ = ':';
        out = put(out, reasons->text + reasons->at[code], reasons->at[code + 1] - reasons->at[code]);
    }
    return out;
}

int64_t mica_write_filter(const char *raw, const int32_t *starts, const int32_t *ends, int64_t count, const uint8_t *codes,
                          const uint8_t *permanent, const mica_reasons *reasons, char *out)
{
    char *begin = out;
    int first = 1;
    out = PUT(out, "{\"Nodes\":null,\"NodeNames\":[");
    for (int64_t i = 0; i < count; i++) {
        if (codes[i] != MICA_FITS)
            continue;
        if (!first)
            *out++ = ',';
        first = 0;
        out = put(out, raw + starts[i], ends[i] - starts[i]);
    }
    out = PUT(out, "],\"FailedNodes\":{");
    out = put_failed(out, raw, starts, ends, count, codes, permanent, reasons, 0);
    out = PUT(out, "},\"FailedAndUnresolvableNodes\":{");
    out = put_failed(out, raw, starts, ends, count, codes, permanent, reasons, 1);
    out = PUT(out, "},\"Error\":\"\"}");
    return out - begin;
}

static char *put_number(char *out, int64_t number)
{
    char digits[20];
    int count = 0;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    if (number < 0)
        *out++ = '-';
    do
        digits[count++] = (char)('0' + rest % 10);
    while (rest /= 10);
    while (count)
        *out++ = digits[--count];
    return out;
}

int64_t mica_write_scores(const char *raw, const int32_t *starts, const int32_t *ends, int64_t count, const int64_t *scores,
                          char *out)
{
    char *begin = out;
    *out++ = '[';
    for (int64_t i = 0; i < count; i++) {
        if (i)
            *out++ = ',';
        out = PUT(out, "{\"Host\":");
        out = put(out, raw + starts[i], ends[i] - starts[i]);
        out = PUT(out, ",\"Score\":");
        out = put_number(out, scores[i]);
        *out++ = '}';
    }
    *out++ = ']';
    return out - begin;
}
