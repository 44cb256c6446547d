/* A small coverage-guided fuzzer for machines without libFuzzer: inputs that reach code which no input reached before are kept and changed further.
 * It drives the same function as libFuzzer, so `clang -fsanitize=fuzzer` in its place works too.
 * usage: TARGET RUNS SEED CRASH_FILE [CORPUS_FILE...]   prints what was done; a crash leaves its input in CRASH_FILE */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 4096, KEPT = 8192, MAX_COUNTERS = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

struct input {
    uint8_t *data;
    size_t size;
};

static uint8_t *counters;
static size_t counter_count;
static uint8_t seen[MAX_COUNTERS]; /* per counter, a bit for each magnitude of how often */
static struct input kept[KEPT];
static size_t kept_count;
static uint8_t current[LONGEST];
static size_t current_size;
static const char *crash_file;
static uint64_t state;

/* The compiler's instrumentation calls these before main. */
void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop)
{
    counters = start;
    counter_count = (size_t)(stop - start) < MAX_COUNTERS ? (size_t)(stop - start) : MAX_COUNTERS;
}

void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop)
{
    (void)start;
    (void)stop;
}

static uint32_t chance(uint32_t below)
{
    uint64_t x = state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((x ^ x >> 31) % below);
}

static void on_crash(int number)
{
    int fd = open(crash_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, current, current_size) != (ssize_t)current_size)
        _exit(3);
    signal(number, SIG_DFL);
    raise(number);
}

static uint8_t magnitude(uint8_t count)
{
    return (uint8_t)(count >= 128 ? 128 : count >= 32 ? 64 : count >= 16 ? 32 : count >= 8 ? 16 : count >= 4 ? 8 : count == 3 ? 4 : count);
}

static bool reached_something_new(void)
{
    bool fresh = false;
    for (size_t i = 0; i < counter_count; i++) {
        uint8_t bit = magnitude(counters[i]);
        fresh = fresh || (bit & ~seen[i]);
        seen[i] |= bit;
    }
    memset(counters, 0, counter_count);
    return fresh;
}

static void keep(void)
{
    uint8_t *copy = kept_count < KEPT ? malloc(current_size + 1) : NULL;
    if (!copy)
        return;
    memcpy(copy, current, current_size);
    kept[kept_count++] = (struct input){copy, current_size};
}

static void run(void)
{
    LLVMFuzzerTestOneInput(current, current_size);
    if (reached_something_new())
        keep();
}

static void insert(size_t at, const uint8_t *bytes, size_t count)
{
    count = current_size + count > LONGEST ? LONGEST - current_size : count;
    memmove(current + at + count, current + at, current_size - at);
    memmove(current + at, bytes, count);
    current_size += count;
}

static void erase(size_t at, size_t count)
{
    count = count > current_size - at ? current_size - at : count;
    memmove(current + at, current + at + count, current_size - at - count);
    current_size -= count;
}

static void change(void)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, '0', '9', '.', '=', '\n', '-', ' '};
    uint8_t part[64];
    size_t at = chance((uint32_t)current_size + 1), from, count;
    const struct input *other = &kept[chance((uint32_t)kept_count)];
    switch (chance(7)) {
    case 0:
        if (at < current_size)
            current[at] ^= (uint8_t)(1u << chance(8));
        break;
    case 1:
        if (at < current_size)
            current[at] = edges[chance(sizeof edges)];
        break;
    case 2:
        if (at < current_size)
            current[at] = (uint8_t)chance(256);
        break;
    case 3: erase(at, 1 + chance(chance(4) ? 4 : 64)); break;
    case 4:
        for (count = 0; count < 1 + chance(8); count++)
            part[count] = chance(2) ? edges[chance(sizeof edges)] : (uint8_t)chance(256);
        insert(at, part, count);
        break;
    case 5: /* a piece of itself */
    default: /* or of another */
        if (!other->size)
            break;
        from = chance((uint32_t)other->size);
        count = 1 + chance(sizeof part - 1);
        count = count > other->size - from ? other->size - from : count;
        memcpy(part, other->data + from, count);
        insert(at, part, count);
    }
}

static bool load(const char *path)
{
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, current, sizeof current);
    current_size = got < 0 ? 0 : (size_t)got;
    if (fd >= 0)
        close(fd);
    return got >= 0;
}

int main(int argc, char **argv)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGABRT, SIGFPE};
    if (argc < 4)
        return 2;
    unsigned long runs = strtoul(argv[1], NULL, 10);
    state = strtoul(argv[2], NULL, 10);
    crash_file = argv[3];
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++)
        signal(crashes[i], on_crash);
    keep(); /* the empty one */
    for (int i = 4; i < argc; i++) {
        if (!load(argv[i]))
            return 2;
        run();
    }
    for (unsigned long n = 0; n < runs; n++) {
        const struct input *parent = &kept[chance((uint32_t)kept_count)];
        memcpy(current, parent->data, parent->size);
        current_size = parent->size;
        for (uint32_t changes = 1 + chance(4); changes; changes--)
            change();
        run();
    }
    size_t reached = 0;
    for (size_t i = 0; i < counter_count; i++)
        reached += seen[i] != 0;
    printf("{\"runs\": %lu, \"kept\": %zu, \"reached\": %zu, \"places\": %zu}\n", runs, kept_count, reached, counter_count);
    return 0;
}
