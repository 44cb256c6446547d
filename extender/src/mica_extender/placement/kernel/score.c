/* score.py for at most one asking container, and for two of one GPU each: the same terms in the same integers. */
#include "fleet.h"

enum { LEVELS = MICA_LEVELS, MICRO = 1000000, FED_SHIFT = 10, LEFTOVER = 25, LEFT_GPU = 8, LEFT_CPU = 128 };
enum { MIDDLE = 32 * MICRO, MAX_SCORE = 2 * MIDDLE, UNDECIDED_SCORE = -1 };

/* mix.Tables in the words of one fleet; scoring.py fills it. */
struct mica_mix {
    const int64_t *waste;     /* LEVELS + 1 values a table */
    const int64_t *first;     /* by model id: where its table begins in waste */
    const int64_t *scarcity;  /* by model id */
    int64_t fed;
    int32_t card_policy;      /* id of the card policy `fragmentation` alone */
};

/* What a card has free, in thousandths: fragmentation.free_share. */
static int64_t free_share(const mica_fleet *fleet, int64_t card, int64_t used_mib, int64_t used_cores)
{
    int64_t capacity = fleet->capacity_mib[card], cores = fleet->core_capacity[card];
    if ((fleet->flags[card] & (MICA_HEALTHY | MICA_CORDONED)) != MICA_HEALTHY || used_mib >= capacity || used_cores >= cores)
        return 0;
    int64_t memory = (capacity - used_mib) * LEVELS / capacity, core = (cores - used_cores) * LEVELS / cores;
    return memory < core ? memory : core;
}

/* fragmentation.waste of a free share on a card with that many slices. */
static int64_t waste(const mica_fleet *fleet, const mica_mix *mix, int64_t card, int64_t share, int64_t slices)
{
    if (slices >= fleet->card_max_slices[card])
        return share * (MICRO / LEVELS);
    return mix->waste[mix->first[fleet->model[card]] + share];
}

/* score.starved */
static int64_t starved(int64_t free, int64_t cpu, int64_t fed)
{
    int64_t hungry = free * (MICRO / LEVELS) - (cpu * fed >> FED_SHIFT);
    return fed && hungry > 0 ? hungry : 0;
}

typedef struct {
    int64_t cost, before, after, card;
} candidate;

/* Whether a comes before b: fragmentation.card_key. Cards that it does not tell apart are alike to the score. */
static int better(const candidate *a, const candidate *b)
{
    if (a->cost != b->cost)
        return a->cost < b->cost;
    return a->before != b->before ? a->before < b->before : a->after < b->after;
}

/* Insert into the `kept` best of at most `number`. */
static int32_t keep(candidate *best, int32_t kept, int32_t number, candidate found)
{
    int32_t at = kept;
    while (at > 0 && better(&found, &best[at - 1]))
        at--;
    if (at >= number)
        return kept;
    int32_t last = kept < number ? kept : number - 1;
    for (int32_t i = last; i > at; i--)
        best[i] = best[i - 1];
    best[at] = found;
    return kept < number ? kept + 1 : kept;
}

/* What a slice costs on a card on which so much is taken. */
static candidate weigh(const mica_fleet *fleet, const mica_mix *mix, int64_t card, int64_t slices, int64_t used_mib, int64_t used_cores,
                       const mica_container *wanted)
{
    int64_t cores = wanted->cores >= 100 ? fleet->core_capacity[card] : wanted->cores;
    int64_t memory = mica_memory_on(wanted, fleet->memory_mib[card]);
    candidate found = {0, free_share(fleet, card, used_mib, used_cores), free_share(fleet, card, used_mib + memory, used_cores + cores), card};
    found.cost = waste(fleet, mix, card, found.after, slices + 1) - waste(fleet, mix, card, found.before, slices);
    found.cost += mix->scarcity[fleet->model[card]] * (found.before - found.after) / LEVELS;
    return found;
}

static candidate weigh_now(const mica_fleet *fleet, const mica_mix *mix, int64_t card, const mica_container *wanted)
{
    return weigh(fleet, mix, card, fleet->slices[card], fleet->used_mib[card], fleet->used_cores[card], wanted);
}

/* Thousandths of a GPU that the node has free. */
static int64_t free_of(const mica_fleet *fleet, int32_t node)
{
    int64_t first = fleet->first_card[node], free = 0;
    for (int64_t card = first; card < first + fleet->card_count[node]; card++)
        free += free_share(fleet, card, fleet->used_mib[card], fleet->used_cores[card]);
    return free;
}

/* score._fragmentation when the cards cost `cost` and leave `left` of the `free` thousandths. */
static int64_t total(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, int64_t free, int64_t left,
                     int64_t cost)
{
    cost += left * LEFTOVER / LEFT_GPU;
    if (fleet->cpu_left[node] >= 0) {
        int64_t cpu = fleet->cpu_left[node] - shape->cpu_milli;
        cpu = cpu < 0 ? 0 : cpu;
        cost += cpu * LEFTOVER / LEFT_CPU + starved(left, cpu, mix->fed) - starved(free, fleet->cpu_left[node], mix->fed);
    }
    return cost;
}

/* The cards that fragmentation.card_key puts first, best first; of alike ones the first of the node. How many there are. */
static int32_t best_cards(const mica_fleet *fleet, const mica_container *wanted, const mica_mix *mix, int32_t node,
                          const uint8_t *card_codes, candidate *best)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < fleet->card_count[node]; i++)
        if (card_codes[i] == MICA_FITS)
            kept = keep(best, kept, wanted->number, weigh_now(fleet, mix, fleet->first_card[node] + i, wanted));
    return kept;
}

/* Millionths of a GPU that the placement costs: score._fragmentation with the cards that fragmentation.card_key puts first. */
static int64_t fragmentation(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node,
                             const uint8_t *card_codes)
{
    candidate best[MICA_MAX_NODE_CARDS];
    int64_t free = free_of(fleet, node), left = free, cost = 0;
    int32_t kept = shape->containers ? best_cards(fleet, shape->container, mix, node, card_codes, best) : 0;
    for (int32_t i = 0; i < kept; i++) {
        left -= best[i].before - best[i].after;
        cost += best[i].cost;
    }
    return total(fleet, shape, mix, node, free, left, cost);
}

/* The cards of a node in the eyes of a pair of containers. */
typedef struct {
    int64_t first, free;
    int32_t cards;
    uint8_t fits[MICA_MAX_NODE_CARDS], fits_second[MICA_MAX_NODE_CARDS], takes_both[MICA_MAX_NODE_CARDS];
    candidate alone[MICA_MAX_NODE_CARDS], second[MICA_MAX_NODE_CARDS], beside[MICA_MAX_NODE_CARDS];
} pair;

static void read_pair(pair *p, const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, const uint8_t *codes)
{
    const mica_container *one = shape->container, *two = one + 1;
    int mutex = mica_mutex(fleet, shape, node);
    p->first = fleet->first_card[node], p->free = free_of(fleet, node), p->cards = fleet->card_count[node];
    for (int32_t i = 0; i < p->cards; i++) {
        int64_t card = p->first + i;
        p->fits[i] = codes[i] == MICA_FITS;
        p->fits_second[i] = mica_check_card(fleet, shape, two, card, mutex) == MICA_FITS;
        p->takes_both[i] = p->fits[i] && mica_takes_both(fleet, shape, card, mutex);
        if (p->fits[i])
            p->alone[i] = weigh_now(fleet, mix, card, one);
        if (p->fits_second[i])
            p->second[i] = weigh_now(fleet, mix, card, two);
        if (p->takes_both[i])
            p->beside[i] = weigh(fleet, mix, card, fleet->slices[card] + 1, fleet->used_mib[card] + mica_memory_on(one, fleet->memory_mib[card]),
                                 fleet->used_cores[card] + one->cores, two);
    }
}

/* Card j for the second container when the first has card i; NULL when it cannot have it. */
static const candidate *second_on(const pair *p, int32_t i, int32_t j)
{
    if (i == j)
        return p->takes_both[i] ? &p->beside[i] : NULL;
    return p->fits_second[j] ? &p->second[j] : NULL;
}

/* What the pair costs on cards i and j. A card that has both is charged once, as a whole. */
static int64_t cost_of(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, const pair *p, int32_t i,
                       int32_t j)
{
    const candidate *one = &p->alone[i], *two = second_on(p, i, j);
    int64_t cost = one->cost + two->cost, left = p->free - (one->before - one->after) - (two->before - two->after);
    if (i == j) {
        int64_t card = p->first + i, price = mix->scarcity[fleet->model[card]];
        cost = waste(fleet, mix, card, two->after, fleet->slices[card] + 2) - waste(fleet, mix, card, one->before, fleet->slices[card]);
        cost += price * (one->before - two->after) / LEVELS;
    }
    return total(fleet, shape, mix, node, p->free, left, cost);
}

/* Cost of two containers of one GPU each, on the cards that fit.py finds first: the best for the first that leave one for the second,
 * and of those the best for the second. 0 when that depends on what card_key leaves open, and only fit.py can tell.
 */
static int pair_cost(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, const uint8_t *codes,
                     int64_t *cost)
{
    pair p;
    const candidate *leader = NULL;
    int32_t choice[MICA_MAX_NODE_CARDS];
    read_pair(&p, fleet, shape, mix, node, codes);
    for (int32_t i = 0; i < p.cards; i++) {
        choice[i] = -1;
        for (int32_t j = 0; p.fits[i] && j < p.cards; j++)
            if (second_on(&p, i, j) && (choice[i] < 0 || better(second_on(&p, i, j), second_on(&p, i, choice[i]))))
                choice[i] = j;
        if (choice[i] >= 0 && (!leader || better(&p.alone[i], leader)))
            leader = &p.alone[i];
    }
    int known = 0;
    for (int32_t i = 0; i < p.cards; i++) {
        if (choice[i] < 0 || better(leader, &p.alone[i]))
            continue;
        for (int32_t j = 0; j < p.cards; j++) {
            if (!second_on(&p, i, j) || better(second_on(&p, i, choice[i]), second_on(&p, i, j)))
                continue;
            int64_t found = cost_of(fleet, shape, mix, node, &p, i, j);
            if (known && found != *cost)
                return 0;
            *cost = found, known = 1;
        }
    }
    return known;
}

static int64_t part(int64_t taken, int64_t total)
{
    int64_t found = total ? taken * MICRO / total : 0;
    return found < MICRO ? found : MICRO;
}

/* score.fullness after the placement, or -1 where it depends on which cards are chosen. */
static int64_t fullness(const mica_fleet *fleet, const mica_shape *shape, int32_t node)
{
    int64_t first = fleet->first_card[node], slices = 0, slots = 0, used_cores = 0, cores = 0, used_mib = 0, capacity = 0;
    for (int64_t card = first; card < first + fleet->card_count[node]; card++) {
        if (shape->containers && (fleet->memory_mib[card] != fleet->memory_mib[first] || fleet->core_capacity[card] != fleet->core_capacity[first]))
            return UNDECIDED_SCORE;
        slices += fleet->slices[card];
        slots += fleet->card_max_slices[card];
        used_cores += fleet->used_cores[card];
        cores += fleet->core_capacity[card];
        used_mib += fleet->used_mib[card];
        capacity += fleet->capacity_mib[card];
    }
    for (const mica_container *wanted = shape->container; wanted < shape->container + shape->containers; wanted++) {
        slices += wanted->number;
        used_cores += wanted->number * (wanted->cores >= 100 ? fleet->core_capacity[first] : wanted->cores);
        used_mib += wanted->number * mica_memory_on(wanted, fleet->memory_mib[first]);
    }
    int64_t parts[] = {part(slices, slots), part(used_cores, cores), part(used_mib, capacity)}, best = 0, sum = 0, weight = 0;
    int64_t weights[] = {fleet->weight_slot[node], fleet->weight_core[node], fleet->weight_memory[node]};
    int own = shape->weights[0] || shape->weights[1] || shape->weights[2];
    for (int i = 0; i < 3; i++) {
        int64_t one = own ? shape->weights[i] : weights[i];
        best = parts[i] > best ? parts[i] : best;
        sum += one * parts[i];
        weight += one;
    }
    return weight ? sum / weight : best;
}

int64_t mica_score_node(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, const uint8_t *card_codes)
{
    int32_t policy = shape->node_policy >= 0 ? shape->node_policy : fleet->node_policy[node];
    int64_t gain;
    if (policy == MICA_NODE_FRAGMENTATION) {
        int32_t cards = shape->card_policy >= 0 ? shape->card_policy : fleet->card_policy[node];
        if (shape->containers && cards != mix->card_policy)
            return UNDECIDED_SCORE;
        int64_t cost = 0;
        if (shape->containers <= 1)
            cost = fragmentation(fleet, shape, mix, node, card_codes);
        else if (!mica_is_pair(shape) || !pair_cost(fleet, shape, mix, node, card_codes, &cost))
            return UNDECIDED_SCORE;
        gain = -cost;
    } else {
        int64_t full = fullness(fleet, shape, node);
        if (full < 0)
            return UNDECIDED_SCORE;
        gain = (policy == MICA_NODE_BINPACK ? full : MICRO - full) - MICRO / 2;
    }
    gain += MIDDLE;
    return gain < 0 ? 0 : gain > MAX_SCORE ? MAX_SCORE : gain;
}

int32_t mica_choose(const mica_fleet *fleet, const mica_shape *shape, const mica_mix *mix, int32_t node, int32_t *cards)
{
    candidate best[MICA_MAX_NODE_CARDS];
    uint8_t codes[MICA_MAX_NODE_CARDS];
    int32_t policy = shape->card_policy >= 0 ? shape->card_policy : fleet->card_policy[node];
    if (shape->containers != 1 || !shape->together || shape->numa_bind || policy != mix->card_policy)
        return -1;
    uint8_t verdict, permanent;
    mica_evaluate(fleet, shape, &node, 1, &verdict, &permanent);
    if (verdict != MICA_FITS)
        return -1;
    for (int32_t i = 0; i < fleet->card_count[node]; i++)
        codes[i] = (uint8_t)mica_check_card(fleet, shape, shape->container, fleet->first_card[node] + i, 0);
    int32_t kept = best_cards(fleet, shape->container, mix, node, codes, best);
    for (int32_t i = 0; i < kept; i++)
        cards[i] = (int32_t)(best[i].card - fleet->first_card[node]);
    return kept == shape->container->number ? kept : -1;
}
