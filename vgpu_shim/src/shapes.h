/* What is known of how long launches of one shape (function or graph, grid, block) take: mean and spread. Lost updates between threads only
 * cost accuracy; the table is this process's own. */
#ifndef MICA_SHAPES_H
#define MICA_SHAPES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MICA_SHAPES = 4096, MICA_SHAPE_NONE = 0xffff };
enum { MICA_FIRST_ESTIMATE_NS = 5000000 }; /* of a shape nobody has measured: too much on purpose, the rest is given back when it has */
/* As much as a batch can be charged in advance, 34 s; what takes longer is charged for the rest while it runs. */
#define MICA_LONGEST_ESTIMATE_NS ((INT64_C(1) << 35) - 1)

struct mica_shape {
    _Atomic uint64_t key;
    _Atomic int64_t mean;   /* ns */
    _Atomic int64_t spread; /* variance, square microseconds */
    _Atomic uint32_t samples;
};

extern struct mica_shape mica_shapes[MICA_SHAPES];

/* Place of a key whose home is taken by another; takes a free one. */
uint16_t mica_shape_search(uint64_t key, size_t at);

/* Where a key is if no other has its place. */
static inline size_t mica_shape_at(uint64_t key)
{
    return (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 40) % MICA_SHAPES;
}

static inline uint16_t mica_shape_of(uint64_t key)
{
    key = key ? key : 1;
    const size_t at = mica_shape_at(key);
    if (__builtin_expect(atomic_load_explicit(&mica_shapes[at].key, memory_order_relaxed) == key, 1))
        return (uint16_t)at;
    return mica_shape_search(key, at);
}

static inline bool mica_shape_known(uint16_t shape)
{
    return atomic_load_explicit(&mica_shapes[shape].samples, memory_order_relaxed) != 0;
}

/* Nanoseconds a launch is expected to take, MICA_LONGEST_ESTIMATE_NS at most. */
static inline int64_t mica_shape_ns(const struct mica_shape *shape)
{
    int64_t mean = atomic_load_explicit(&shape->mean, memory_order_relaxed);
    return __builtin_expect(mean != 0, 1) ? mean : MICA_FIRST_ESTIMATE_NS;
}
static inline int64_t mica_shape_mean(uint16_t shape)
{
    return mica_shape_ns(&mica_shapes[shape]);
}

/* `count` launches, of the shapes listed, together took `ns`. Entries that are MICA_SHAPE_NONE did not happen. */
void mica_shapes_learn(const uint16_t *list, unsigned count, int64_t ns);

#endif
