/* fit.py for one asking container, and what is necessary for several: same checks, same order, same one code per node. */
#include "fleet.h"

/* What is of one container's choice of cards on one node. */
typedef struct {
    const mica_fleet *fleet;
    const mica_shape *shape;
    const mica_container *wanted;
    int64_t first;
    int32_t cards;
    int mutex;
} question;

int mica_check_card(const mica_fleet *fleet, const mica_shape *shape, const mica_container *wanted, int64_t card, int mutex)
{
    int64_t memory = mica_memory_on(wanted, fleet->memory_mib[card]);
    if (!(fleet->flags[card] & MICA_HEALTHY))
        return MICA_NOT_HEALTHY;
    if (fleet->flags[card] & MICA_CORDONED)
        return MICA_CORDON;
    if (!shape->model_ok[fleet->model[card]])
        return MICA_TYPE_MISMATCH;
    if (shape->card_ok && !shape->card_ok[card])
        return MICA_UUID_MISMATCH;
    if (fleet->slices[card] >= fleet->card_max_slices[card])
        return MICA_SLICES_EXHAUSTED;
    if ((mutex || wanted->exclusive) && (fleet->slices[card] || fleet->used_mib[card] || fleet->used_cores[card]))
        return MICA_EXCLUSIVE_CONFLICT;
    if (memory < 1 || memory > fleet->memory_mib[card] || memory > fleet->capacity_mib[card] - fleet->used_mib[card])
        return MICA_INSUFFICIENT_MEMORY;
    if (fleet->used_cores[card] >= fleet->core_capacity[card] || fleet->used_cores[card] + wanted->cores > fleet->core_capacity[card])
        return MICA_INSUFFICIENT_CORE;
    return MICA_FITS;
}

/* check.could_ever: could the card take the container if it were empty, healthy and not cordoned? */
static int could_ever(const question *q, int64_t card)
{
    int64_t memory = mica_memory_on(q->wanted, q->fleet->memory_mib[card]);
    return q->shape->model_ok[q->fleet->model[card]] && (!q->shape->card_ok || q->shape->card_ok[card]) && memory >= 1 &&
           memory <= q->fleet->memory_mib[card] && memory <= q->fleet->capacity_mib[card] &&
           q->wanted->cores <= q->fleet->core_capacity[card];
}

/* check.most_usable: how many of the marked cards one container may have at once. */
static int32_t most_usable(const question *q, const uint8_t *marked)
{
    int32_t best = 0;
    for (int32_t i = 0; i < q->cards; i++) {
        int32_t alike = 0;
        if (!marked[i])
            continue;
        for (int32_t j = 0; j < q->cards; j++)
            alike += marked[j] && (!q->shape->numa_bind || q->fleet->numa[q->first + j] == q->fleet->numa[q->first + i]);
        best = alike > best ? alike : best;
        if (!q->shape->numa_bind)
            break;
    }
    return best;
}

/* check.spoken */
static uint8_t spoken(uint32_t seen)
{
    static const uint8_t precedence[] = {MICA_NUMA_NOT_FIT,       MICA_INSUFFICIENT_MEMORY, MICA_INSUFFICIENT_CORE,
                                         MICA_EXCLUSIVE_CONFLICT, MICA_SLICES_EXHAUSTED,    MICA_CORDON,
                                         MICA_NOT_HEALTHY,        MICA_UUID_MISMATCH,       MICA_TYPE_MISMATCH};
    for (size_t i = 0; i < sizeof precedence; i++)
        if (seen & 1u << precedence[i])
            return precedence[i];
    return MICA_INSUFFICIENT_DEVICE;
}

/* Whether the container alone has enough cards: MICA_FITS, or the code of fit.py's rejection. */
static uint8_t alone(const question *q, uint8_t *permanent)
{
    uint8_t marked[MICA_MAX_NODE_CARDS];
    uint32_t seen = 0;
    int32_t fitting = 0;
    for (int32_t i = 0; i < q->cards; i++) {
        int code = mica_check_card(q->fleet, q->shape, q->wanted, q->first + i, q->mutex);
        marked[i] = code == MICA_FITS;
        fitting += marked[i];
        seen |= 1u << code;
    }
    if (fitting >= q->wanted->number && (!q->shape->numa_bind || most_usable(q, marked) >= q->wanted->number))
        return MICA_FITS;
    *permanent = q->cards < q->wanted->number;
    if (*permanent)
        return MICA_INSUFFICIENT_DEVICE;
    for (int32_t i = 0; i < q->cards; i++)
        marked[i] = (uint8_t)could_ever(q, q->first + i);
    *permanent = most_usable(q, marked) < q->wanted->number;
    return fitting >= q->wanted->number ? MICA_NUMA_NOT_FIT : spoken(seen);
}

/* Whether the card takes a slice of `second` beside one of the container asked about, which it takes alone. */
static int takes_both(const question *q, const mica_container *second, int64_t card)
{
    const mica_fleet *fleet = q->fleet;
    int64_t memory = mica_memory_on(second, fleet->memory_mib[card]);
    int64_t taken = fleet->used_mib[card] + mica_memory_on(q->wanted, fleet->memory_mib[card]);
    int64_t cores = fleet->used_cores[card] + q->wanted->cores;
    if (q->mutex || q->wanted->exclusive || second->exclusive || fleet->slices[card] + 1 >= fleet->card_max_slices[card])
        return 0;
    if (memory < 1 || memory > fleet->memory_mib[card] || memory > fleet->capacity_mib[card] - taken)
        return 0;
    /* An uncapped slice joins a card that its own pod has filled, unless one slice fills it. */
    return cores + second->cores <= fleet->core_capacity[card] && (cores < fleet->core_capacity[card] || fleet->slices[card] > 0);
}

/* Whether two containers of one GPU each fit together. fit.py finds every such pair within its budget. */
static int pair_fits(const question *q, const mica_container *second)
{
    int64_t only = -1; /* the one card that takes the second; -2: several do */
    for (int64_t card = q->first; card < q->first + q->cards; card++)
        if (mica_check_card(q->fleet, q->shape, second, card, q->mutex) == MICA_FITS)
            only = only == -1 ? card : -2;
    for (int64_t card = q->first; card < q->first + q->cards; card++)
        if (mica_check_card(q->fleet, q->shape, q->wanted, card, q->mutex) == MICA_FITS)
            if (only == -2 || (only >= 0 && only != card) || takes_both(q, second, card))
                return 1;
    return 0;
}

int mica_is_pair(const mica_shape *shape)
{
    return shape->together && shape->containers == 2 && shape->container[0].number == 1 && shape->container[1].number == 1;
}

int mica_takes_both(const mica_fleet *fleet, const mica_shape *shape, int64_t card, int mutex)
{
    question q = {fleet, shape, shape->container, card, 1, mutex};
    return takes_both(&q, shape->container + 1, card);
}

static uint8_t verdict(const mica_fleet *fleet, const mica_shape *shape, int32_t node, uint8_t *permanent)
{
    question q = {fleet, shape, shape->container, fleet->first_card[node], fleet->card_count[node], mica_mutex(fleet, shape, node)};
    *permanent = 0;
    if (!fleet->ready[node])
        return MICA_UNREGISTERED;
    if (shape->compute_class > fleet->highest_class[node] || shape->compute_weight > fleet->max_weight[node]) {
        *permanent = 1;
        return MICA_COMPUTE_NOT_ALLOWED;
    }
    if (!shape->containers)
        return MICA_FITS;
    if (q.cards > MICA_MAX_NODE_CARDS)
        return MICA_UNDECIDED;
    uint8_t code = alone(&q, permanent);
    if (code != MICA_FITS || shape->containers == 1)
        return code;
    return mica_is_pair(shape) && pair_fits(&q, shape->container + 1) ? MICA_FITS : MICA_UNDECIDED;
}

void mica_evaluate(const mica_fleet *fleet, const mica_shape *shape, const int32_t *nodes, int64_t count, uint8_t *codes,
                   uint8_t *permanent)
{
    for (int64_t i = 0; i < count; i++) {
        if (nodes[i] < 0 || nodes[i] >= fleet->node_rows) {
            codes[i] = MICA_UNREGISTERED;
            permanent[i] = 1;
        } else {
            codes[i] = verdict(fleet, shape, nodes[i], &permanent[i]);
        }
    }
}

int mica_score(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, const int32_t *nodes, int64_t count,
               const uint8_t *codes, int64_t *scores)
{
    uint8_t card_codes[MICA_MAX_NODE_CARDS];
    if (!mica_score_node || !mix || (shape->containers > 1 && !shape->together) || shape->numa_bind)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        scores[i] = 0;
        if (codes[i] != MICA_FITS)
            continue;
        if (fleet->card_count[nodes[i]] > MICA_MAX_NODE_CARDS) {
            scores[i] = -1;
            continue;
        }
        int mutex = mica_mutex(fleet, shape, nodes[i]);
        for (int32_t card = 0; shape->containers && card < fleet->card_count[nodes[i]]; card++)
            card_codes[card] = (uint8_t)mica_check_card(fleet, shape, shape->container, fleet->first_card[nodes[i]] + card, mutex);
        scores[i] = mica_score_node(fleet, shape, mix, nodes[i], card_codes);
    }
    return 0;
}
