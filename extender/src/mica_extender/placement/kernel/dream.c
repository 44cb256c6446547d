/* dream.py in C: the same draws and the same integers, in a thread that does not hold the interpreter's lock. */
#include <string.h>

#include "fleet.h"

enum { LEVELS = MICA_LEVELS, CARDS = 1000, FEWEST_CARDS = 20, DRAWS = 2600, LOAD_TENTHS = 13, PRIOR = 3, MICRO_A_LEVEL = 1000 };
enum { WORDS = LEVELS / 64 + 1, NOBODY = -1 };

/* Imaginary cards: the levels that each has passed, and those of a level in a stack. */
typedef struct {
    int32_t top[LEVELS + 1], below[CARDS];
    uint64_t passed[CARDS][WORDS];
} cards;

static int64_t draw(uint64_t *random, int64_t below)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(*random >> 33) % below;
}

/* The share of a class, classes by their frequencies. */
static int64_t draw_share(const mica_classes *classes, uint64_t *random)
{
    int64_t drawn = draw(random, classes->up_to[classes->count - 1]), low = 0, high = classes->count - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (classes->up_to[middle] > drawn)
            high = middle;
        else
            low = middle + 1;
    }
    return classes->share[low];
}

static void push(cards *all, int32_t card, int64_t level)
{
    all->below[card] = all->top[level];
    all->top[level] = card;
    all->passed[card][level / 64] |= (uint64_t)1 << (level % 64);
}

/* The level of a card with room for the share, the least loss first, then the fullest; NOBODY has room. */
static int64_t best_level(const cards *all, const int64_t *waste, int64_t share)
{
    int64_t best = NOBODY, least = 0;
    for (int64_t level = share; level <= LEVELS; level++) {
        int64_t loss = waste[level - share] - waste[level];
        if (all->top[level] != NOBODY && (best == NOBODY || loss < least))
            best = level, least = loss;
    }
    return best;
}

static int64_t mean_share(const mica_classes *classes)
{
    int64_t sum = 0, before = 0;
    for (int64_t i = 0; i < classes->count; i++) {
        sum += classes->share[i] * (classes->up_to[i] - before);
        before = classes->up_to[i];
    }
    return sum / before;
}

/* Fill cards with pods until the load has come. How many cards. */
static int32_t fill(cards *all, const mica_classes *classes, const mica_dreamt *dreamt)
{
    int64_t count = 10 * DRAWS * mean_share(classes) / (LOAD_TENTHS * LEVELS);
    count = count > CARDS ? CARDS : count < FEWEST_CARDS ? FEWEST_CARDS : count;
    memset(all->passed, 0, sizeof all->passed);
    for (int level = 0; level <= LEVELS; level++)
        all->top[level] = NOBODY;
    for (int32_t card = 0; card < count; card++)
        push(all, card, LEVELS);
    for (int64_t to_come = count * LEVELS * LOAD_TENTHS / 10; to_come > 0;) {
        int64_t share = draw_share(classes, dreamt->random), level = best_level(all, dreamt->waste, share);
        to_come -= share;
        if (level == NOBODY)
            continue;
        int32_t card = all->top[level];
        all->top[level] = all->below[card];
        push(all, card, level - share);
    }
    return (int32_t)count;
}

/* Add what is left of each card to the levels that it has passed; what was there before counts half. */
static void remember(const cards *all, int32_t count, const mica_dreamt *dreamt)
{
    for (int level = 0; level <= LEVELS; level++) {
        dreamt->left[level] /= 2;
        dreamt->passed[level] /= 2;
    }
    for (int32_t card = 0; card < count; card++) {
        int left = 0;
        while (!(all->passed[card][left / 64] >> (left % 64) & 1))
            left++;
        for (int level = left; level <= LEVELS; level++) {
            int64_t passed = (int64_t)(all->passed[card][level / 64] >> (level % 64) & 1);
            dreamt->left[level] += passed * left;
            dreamt->passed[level] += passed;
        }
    }
}

static void tabulate(const mica_dreamt *dreamt)
{
    int64_t below = -MICRO_A_LEVEL;
    for (int64_t level = 0; level <= LEVELS; level++) {
        int64_t passed = dreamt->passed[level], mean = below + MICRO_A_LEVEL;
        if (passed)
            mean = (dreamt->left[level] * MICRO_A_LEVEL + PRIOR * below) / (passed + PRIOR);
        mean = mean < level * MICRO_A_LEVEL ? mean : level * MICRO_A_LEVEL;
        below = mean < 0 ? 0 : mean;
        dreamt->waste[level] = below;
    }
}

void mica_dream(const mica_classes *classes, int64_t rounds, const mica_dreamt *dreamt)
{
    cards all;
    for (int64_t round = 0; round < rounds; round++) {
        int32_t count = fill(&all, classes, dreamt);
        remember(&all, count, dreamt);
        tabulate(dreamt);
    }
}
