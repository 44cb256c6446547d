/* The fleet and a pod's shape as the C kernel sees them: mica_extender.placement.fleet and .kernels fill these structs.
 *
 * What is right is said by fit.py and score.py; this says it fast. Integers only, so that the three cannot differ by rounding.
 * Nothing is allocated, nothing is kept between calls, nothing is written but the outputs.
 */
#ifndef MICA_FLEET_H
#define MICA_FLEET_H

#include <stddef.h>
#include <stdint.h>

/* Verdict codes, in the order of kernels.CODES. */
enum {
    MICA_FITS = 0,
    MICA_UNREGISTERED,
    MICA_NOT_HEALTHY,
    MICA_CORDON,
    MICA_TYPE_MISMATCH,
    MICA_UUID_MISMATCH,
    MICA_SLICES_EXHAUSTED,
    MICA_EXCLUSIVE_CONFLICT,
    MICA_INSUFFICIENT_MEMORY,
    MICA_INSUFFICIENT_CORE,
    MICA_NUMA_NOT_FIT,
    MICA_INSUFFICIENT_DEVICE,
    MICA_COMPUTE_NOT_ALLOWED,
    MICA_CODES,
    MICA_UNDECIDED = 255 /* ask fit.py */
};

enum { MICA_NODE_FRAGMENTATION = 0, MICA_NODE_BINPACK, MICA_NODE_SPREAD };

enum { MICA_HEALTHY = 1, MICA_CORDONED = 2 }; /* bits of flags */

enum { MICA_LEVELS = 1000 }; /* thousandths in a card: dream.LEVELS */

enum { MICA_MAX_NODE_CARDS = 64 }; /* a VGPUNode has no more; larger nodes are MICA_UNDECIDED */

typedef struct {
    int64_t node_rows, card_rows;
    /* by node row */
    const int32_t *first_card, *card_count;
    const uint8_t *ready;
    const int32_t *node_policy; /* MICA_NODE_… */
    const int32_t *card_policy; /* id of the fleet's table of card policies */
    const uint8_t *mutex;       /* whether that policy holds mutex */
    const int32_t *weight_slot, *weight_core, *weight_memory; /* of the pool; all 0: the fullest counts */
    const int32_t *highest_class, *max_weight; /* of the pool: what a pod may choose of the compute */
    const int64_t *cpu_left; /* milli-CPU; -1 when nobody reports it */
    const int64_t *version;  /* higher with every change of the node; never 0 */
    /* by card row */
    const int64_t *memory_mib;   /* physical */
    const int64_t *capacity_mib; /* with overcommit */
    const int64_t *used_mib;
    const int32_t *core_capacity; /* percent, with overcommit */
    const int32_t *used_cores;
    const int32_t *slices;
    const int32_t *card_max_slices;
    const uint8_t *flags;
    const int32_t *model; /* id of the fleet's table of models */
    const int32_t *numa;  /* -1 when not known */
} mica_fleet;

typedef struct {
    int64_t memory_mib; /* 0: see memory_percent */
    int32_t memory_percent; /* of the physical memory; 0 with memory_mib 0: all of it */
    int32_t number;
    int32_t cores;
    int32_t exclusive;
} mica_container;

typedef struct {
    const mica_container *container; /* the asking ones, in the order in which fit.py places them */
    int32_t containers;
    int32_t node_policy; /* the pod's own; -1: the node's */
    int32_t card_policy; /* the pod's own, an id of the fleet's table; -1: the node's */
    int32_t weights[3];  /* slots, cores, memory; all 0: the fullest counts */
    int64_t cpu_milli;
    int32_t mutex;     /* 1 and 0: the pod's own card policy holds it or not; -1: the node's counts */
    int32_t together;  /* whether all asking containers run at the same time: no init containers */
    int32_t numa_bind; /* all GPUs of a container must be of one NUMA node */
    int32_t compute_class, compute_weight; /* what the pod chooses of the compute; 0: nothing */
    const uint8_t *model_ok; /* by model id */
    const uint8_t *card_ok;  /* by card row, or NULL: every UUID is accepted */
} mica_shape;

/* What was learned from the pods seen so far; laid out by whoever scores (score.c, mix.py). */
typedef struct mica_mix mica_mix;

/* Memory in MiB that a container means on a card: ContainerRequest.memory_on. */
static inline int64_t mica_memory_on(const mica_container *wanted, int64_t card_mib)
{
    if (wanted->memory_percent)
        return card_mib * wanted->memory_percent / 100;
    return wanted->memory_mib ? wanted->memory_mib : card_mib;
}

#define MICA_EXPORT __attribute__((visibility("default")))

/* Digest of the sources, see build_native.py. */
MICA_EXPORT const char *mica_kernel_digest(void);

/* check.check_card: MICA_FITS, or the first check that the card fails under a card policy with or without mutex. */
int mica_check_card(const mica_fleet *fleet, const mica_shape *shape, const mica_container *wanted, int64_t card, int mutex);

/* Whether the shape is two containers of one GPU each that run at the same time. */
int mica_is_pair(const mica_shape *shape);

/* Whether a card that takes the first container of a pair takes the second beside it. */
int mica_takes_both(const mica_fleet *fleet, const mica_shape *shape, int64_t card, int mutex);

/* Whether the card policy that counts on the node, the pod's own or the node's, holds mutex. */
static inline int mica_mutex(const mica_fleet *fleet, const mica_shape *shape, int32_t node)
{
    return shape->mutex >= 0 ? shape->mutex : fleet->mutex[node];
}

/* Verdicts of `count` node rows (row -1: not known). codes and permanent get one value a node. */
MICA_EXPORT void mica_evaluate(const mica_fleet *fleet, const mica_shape *shape, const int32_t *nodes, int64_t count, uint8_t *codes,
                   uint8_t *permanent);

/* Score of a node on which the pod fits: score.score after the placement that fit.py would choose; -1 where only they can tell.
 * card_codes has mica_check_card of each of the node's cards for the first container. Defined in score.c.
 */
__attribute__((weak)) int64_t mica_score_node(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node,
                                              const uint8_t *card_codes);

/* mica_score_node for each row whose code is MICA_FITS; 0 for the others. -1 when the kernel cannot, 0 when done. */
MICA_EXPORT int mica_score(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, const int32_t *nodes, int64_t count,
                const uint8_t *codes, int64_t *scores);

/* Positions of the cards that fit.py chooses on a node for the one asking container of a pod, in its order, under card policy
 * `fragmentation`; cards that only their place tells apart are taken in the order of their rows. How many, or -1 where fit.py has
 * to choose or to say why there are none. `cards` has room for MICA_MAX_NODE_CARDS.
 */
MICA_EXPORT int32_t mica_choose(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, int32_t *cards);

/* Kinds of pods: the share of a card that each takes, 1 to MICA_LEVELS, and how often they and all before them have come. */
typedef struct {
    const int64_t *share, *up_to;
    int64_t count; /* not 0 */
} mica_classes;

/* What dream.Dream remembers: MICA_LEVELS + 1 values of each, and the state of the random numbers. */
typedef struct {
    int64_t *waste, *left, *passed;
    uint64_t *random;
} mica_dreamt;

/* Dream.go_on: learn more from these classes. */
MICA_EXPORT void mica_dream(const mica_classes *classes, int64_t rounds, const mica_dreamt *dreamt);

/* Names of the fleet's nodes as JSON strings, for looking them up: open addressing, -1 is an empty slot. */
typedef struct {
    const char *text;      /* all names after each other, quotes included */
    const int64_t *at;     /* by node row: where its name begins; the next begins where it ends */
    int32_t *slots;        /* node rows by hash */
    int64_t mask, rows;    /* slots - 1, a power of two less one; node rows */
} mica_names;

/* Fill the slots. */
MICA_EXPORT void mica_index_names(const mica_names *names);

/* Read a JSON array of plain strings (printable ASCII, no escapes): per name its row (-1: not known) and where in `raw` it
 * stands, quotes included. The number of names; -1 for anything else, which a real JSON parser has to look at.
 */
MICA_EXPORT int64_t mica_read_names(const mica_names *names, const char *raw, int64_t length, int64_t capacity, int32_t *rows,
                                    int32_t *starts, int32_t *ends);

/* A text by number: reason i is text[at[i] .. at[i + 1]). */
typedef struct {
    const char *text;
    const int64_t *at;
} mica_reasons;

/* The answer of filter for these names; codes other than MICA_FITS are numbers of reasons. The caller's buffer is large enough:
 * `length` of raw, 8 and the longest reason for each name, and 128. The answer's length.
 */
MICA_EXPORT int64_t mica_write_filter(const char *raw, const int32_t *starts, const int32_t *ends, int64_t count,
                                      const uint8_t *codes, const uint8_t *permanent, const mica_reasons *reasons, char *out);

/* The answer of prioritize. The buffer has `length` of raw and 40 for each name, and 128. */
MICA_EXPORT int64_t mica_write_scores(const char *raw, const int32_t *starts, const int32_t *ends, int64_t count,
                                      const int64_t *scores, char *out);

/* What is remembered of one shape, by node row: scheduling/verdicts.py. It holds for the version of the node that stands beside it. */
typedef struct {
    uint8_t *codes, *permanent;
    int64_t *decided_at, *scores, *scored_at;
} mica_known;

/* A list of names that was sent, and the fleet's names to find them in. */
typedef struct {
    const mica_names *names;
    const char *raw;
    int64_t length;
} mica_question;

/* Room for one answer: columns by name, `capacity` of them; the text; how many nodes had which code. */
typedef struct {
    int64_t capacity;
    int32_t *rows, *starts, *ends;
    uint8_t *codes, *permanent;
    int64_t *scores, *tally;
    char *out;
} mica_work;

/* The answer of filter, written to work->out, whose length is returned; -1 when the list has to be read by a real JSON parser, has
 * more names than there is room for, or holds a node that only fit.py can tell. Writes what it has decided to `known`.
 */
MICA_EXPORT int64_t mica_filter(const mica_question *asked, const mica_fleet *fleet, const mica_shape *shape,
                                const mica_known *known, const mica_work *work, const mica_reasons *reasons);

/* The answer of prioritize likewise; -1 also for a node that only score.py can tell. */
MICA_EXPORT int64_t mica_prioritize(const mica_question *asked, const mica_fleet *fleet, const mica_shape *shape,
                                    const mica_mix *mix, const mica_known *known, const mica_work *work);

#endif
