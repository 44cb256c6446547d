/* See shapes.h. */
#include "shapes.h"

enum { PROBES = 8, SHORTEST_NS = 500, WARM = 16, SMOOTH = 64 };

struct mica_shape mica_shapes[MICA_SHAPES];

uint16_t mica_shape_search(uint64_t key, size_t at)
{
    for (int i = 0; i < PROBES; i++, at = (at + 1) % MICA_SHAPES) {
        uint64_t found = atomic_load_explicit(&mica_shapes[at].key, memory_order_relaxed);
        if (!found && atomic_compare_exchange_strong(&mica_shapes[at].key, &found, key))
            return (uint16_t)at;
        if (found == key)
            return (uint16_t)at;
    }
    return (uint16_t)at; /* table crowded: shapes share an estimate */
}

static void store_mean(struct mica_shape *shape, int64_t mean)
{
    mean = mean < SHORTEST_NS ? SHORTEST_NS : mean > MICA_LONGEST_ESTIMATE_NS ? MICA_LONGEST_ESTIMATE_NS : mean;
    atomic_store_explicit(&shape->mean, mean, memory_order_relaxed);
}

static void widen(struct mica_shape *shape, int64_t square_us, int64_t part)
{
    int64_t old = atomic_load_explicit(&shape->spread, memory_order_relaxed);
    atomic_store_explicit(&shape->spread, old + (square_us - old) / part, memory_order_relaxed);
}

/* Alone in its batch: what was measured is its own. */
static void learn_one(struct mica_shape *shape, int64_t ns)
{
    int64_t old = atomic_load_explicit(&shape->mean, memory_order_relaxed), off_us = (ns - old) / 1000;
    uint32_t samples = atomic_fetch_add_explicit(&shape->samples, 1, memory_order_relaxed);
    int64_t part = samples < WARM ? (int64_t)samples + 1 : 2 * WARM;
    store_mean(shape, old + (ns - old) / part);
    if (samples)
        widen(shape, off_us * off_us, part);
}

static bool alike(const uint16_t *list, unsigned count)
{
    uint16_t other = 0;
    for (unsigned i = 0; i < count; i++) /* no early end: the compiler compares many at once */
        other |= list[i] ^ list[0];
    return !other;
}

/* As below, for `count` of one shape. */
static void learn_alike(struct mica_shape *shape, int count, int64_t ns)
{
    const int64_t old = atomic_load_explicit(&shape->mean, memory_order_relaxed), each = ns / count, off_us = (ns - old * count) / 1000;
    store_mean(shape, old + (each - old) * count / (SMOOTH + count));
    widen(shape, off_us * off_us / count, (SMOOTH + count) / count);
    if (atomic_load_explicit(&shape->samples, memory_order_relaxed) < WARM)
        atomic_fetch_add_explicit(&shape->samples, (uint32_t)count, memory_order_relaxed);
}

/* Several: each is taken to have been off by the same factor (normalised least mean squares, step 1/SMOOTH a launch); the deviation of the sum
 * of n independent durations is n variances. */
void mica_shapes_learn(const uint16_t *list, unsigned count, int64_t ns)
{
    int64_t sum = 0;
    unsigned launched = 0, last = 0;
    const bool same = alike(list, count) && list[0] != MICA_SHAPE_NONE;
    for (unsigned i = 0; i < count && !same; i++)
        if (list[i] != MICA_SHAPE_NONE) {
            sum += mica_shape_mean(list[i]);
            launched++;
            last = list[i];
        }
    launched = same ? count : launched;
    last = same ? list[0] : last;
    if (same && launched > 1) { /* the usual loop: one update in place of many */
        learn_alike(&mica_shapes[list[0]], (int)launched, ns);
        return;
    }
    if (launched == 1)
        learn_one(&mica_shapes[last], ns);
    if (launched < 2 || sum <= 0)
        return;
    const double factor = (double)ns / (double)sum;
    const int64_t off_us = (ns - sum) / 1000, square_us = off_us * off_us / launched;
    for (unsigned i = 0; i < count; i++) {
        if (list[i] == MICA_SHAPE_NONE)
            continue;
        struct mica_shape *shape = &mica_shapes[list[i]];
        int64_t old = mica_shape_mean(list[i]);
        store_mean(shape, old + (int64_t)((double)old * (factor - 1) / SMOOTH));
        widen(shape, square_us, SMOOTH);
        if (atomic_load_explicit(&shape->samples, memory_order_relaxed) < WARM)
            atomic_fetch_add_explicit(&shape->samples, 1, memory_order_relaxed);
    }
}
