/* fit.py for one asking container, and what is necessary for several: same checks, same order, same one code per node. */
#include "fleet.h"

int mica_check_card(const mica_fleet *fleet, const mica_shape *shape, const mica_container *wanted, int64_t card)
{
    int64_t memory = mica_memory_on(wanted, fleet->memory_mib[card]);
    if (!(fleet->flags[card] & MICA_HEALTHY))
        return MICA_NOT_HEALTHY;
    if (!shape->model_ok[fleet->model[card]])
        return MICA_TYPE_MISMATCH;
    if (shape->card_ok && !shape->card_ok[card])
        return MICA_UUID_MISMATCH;
    if (fleet->slices[card] >= fleet->card_max_slices[card])
        return MICA_SLICES_EXHAUSTED;
    if (wanted->exclusive && (fleet->slices[card] || fleet->used_mib[card] || fleet->used_cores[card]))
        return MICA_EXCLUSIVE_CONFLICT;
    if (memory < 1 || fleet->used_mib[card] + memory > fleet->capacity_mib[card])
        return MICA_INSUFFICIENT_MEMORY;
    if (fleet->used_cores[card] >= fleet->core_capacity[card] || fleet->used_cores[card] + wanted->cores > fleet->core_capacity[card])
        return MICA_INSUFFICIENT_CORE;
    return MICA_FITS;
}

/* fit._ever: could the card take the container if it were empty and healthy? */
static int ever(const mica_fleet *fleet, const mica_shape *shape, const mica_container *wanted, int64_t card)
{
    int64_t memory = mica_memory_on(wanted, fleet->memory_mib[card]);
    return shape->model_ok[fleet->model[card]] && (!shape->card_ok || shape->card_ok[card]) && memory >= 1 &&
           memory <= fleet->capacity_mib[card] && wanted->cores <= fleet->core_capacity[card];
}

/* fit._spoken: the most frequent shortage, or else what puts a card out of question. */
static uint8_t spoken(const int32_t *counts)
{
    static const uint8_t shortages[] = {MICA_INSUFFICIENT_MEMORY, MICA_INSUFFICIENT_CORE, MICA_EXCLUSIVE_CONFLICT, MICA_SLICES_EXHAUSTED};
    static const uint8_t others[] = {MICA_NOT_HEALTHY, MICA_UUID_MISMATCH, MICA_TYPE_MISMATCH};
    uint8_t best = 0;
    for (size_t i = 0; i < sizeof shortages; i++)
        if (counts[shortages[i]] > (best ? counts[best] : 0))
            best = shortages[i];
    for (size_t i = 0; !best && i < sizeof others; i++)
        if (counts[others[i]])
            best = others[i];
    return best ? best : MICA_INSUFFICIENT_DEVICE;
}

static uint8_t verdict(const mica_fleet *fleet, const mica_shape *shape, int32_t node, uint8_t *permanent)
{
    int32_t counts[MICA_CODES] = {0};
    int32_t possible = 0, cards = fleet->card_count[node];
    int64_t first = fleet->first_card[node];
    *permanent = 0;
    if (!fleet->ready[node])
        return MICA_UNREGISTERED;
    if (cards > MICA_MAX_NODE_CARDS)
        return MICA_UNDECIDED;
    if (!shape->containers)
        return MICA_FITS;
    const mica_container *wanted = &shape->container[0];
    for (int64_t card = first; card < first + cards; card++)
        counts[mica_check_card(fleet, shape, wanted, card)]++;
    if (counts[MICA_FITS] >= wanted->number)
        return shape->containers == 1 ? MICA_FITS : MICA_UNDECIDED;
    *permanent = cards < wanted->number;
    if (*permanent)
        return MICA_INSUFFICIENT_DEVICE;
    for (int64_t card = first; card < first + cards; card++)
        possible += ever(fleet, shape, wanted, card);
    *permanent = possible < wanted->number;
    return spoken(counts);
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
    if (!mica_score_node || shape->containers != 1)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        scores[i] = 0;
        if (codes[i] != MICA_FITS)
            continue;
        for (int32_t card = 0; card < fleet->card_count[nodes[i]]; card++)
            card_codes[card] = (uint8_t)mica_check_card(fleet, shape, shape->container, fleet->first_card[nodes[i]] + card);
        scores[i] = mica_score_node(fleet, shape, mix, nodes[i], card_codes);
    }
    return 0;
}
