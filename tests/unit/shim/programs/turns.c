/* The arbiter's decisions under random and hostile observations: turns LOOKS SEED. Prints what went wrong, or "ok" and how many turns there were. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../../vgpu_shim/arbiter/turns.c"

enum { MANY = 6 };
static struct contender all[MANY];
static struct card card;
static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (state >> 33) % below;
}

/* What a container may write into its region: sensible, or anything at all. */
static void observe(struct contender *c, uint64_t now)
{
    const bool hostile = draw(8) == 0;
    if (draw(3))
        c->waiting_at = hostile ? state << draw(64) : now - draw(2000000);
    if (draw(3))
        c->active_at = hostile ? state << draw(64) : now - draw(2000000);
    c->batches = draw(2) ? 0 : (uint32_t)draw(hostile ? 65536 : 4);
    c->busy = !hostile ? c->busy + draw(1000000) : draw(2) ? c->busy ^ UINT64_C(1) << 63 : state << draw(64);
    c->balance = hostile ? (int64_t)(state << draw(64)) : (int64_t)draw(100000000) - 50000000;
    c->inflight_until = hostile ? state << draw(64) : now + draw(20000000);
    c->alive = draw(20) != 0;
}

/* 0 when the answers make sense together. */
static int wrong(uint64_t now)
{
    unsigned holders = 0;
    for (int i = 0; i < MANY; i++) {
        const struct contender *c = &all[i];
        const bool turn = c->until > now && c->until != MICA_TURN_OPEN;
        holders += turn;
        if (turn && c->until - now > UINT64_C(1000000000))
            return printf("a turn of more than a second\n");
        if (turn && card.phase != PHASE_OPEN && card.holder != i)
            return printf("a turn for one that does not hold the card\n");
        if (c->until == MICA_TURN_OPEN && card.phase != PHASE_OPEN)
            return printf("turns and no turns at once\n");
        if (!(c->rate >= 0 && c->rate <= 1.0001) || c->credit > 11000000000 || c->credit < -60000000000)
            return printf("rate %g credit %lld\n", c->rate, (long long)c->credit);
    }
    return holders > 1 ? printf("two turns at once\n") : 0;
}

int main(int argc, char **argv)
{
    long looks = argc > 1 ? atol(argv[1]) : 100000;
    uint64_t now = UINT64_C(1000000000000), wait;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (int i = 0; i < MANY; i++)
        card.list[i] = &all[i];
    card.count = MANY;
    turns_reset(&card);
    for (long n = 0; n < looks; n++) {
        if (draw(1000) == 0) {
            struct contender *c = &all[draw(MANY)];
            c->cores = (uint32_t)draw(101);
            c->weight = 1 + (uint32_t)draw(MICA_WEIGHT_MAX);
            c->policy = (uint32_t)draw(3);
            c->priority = (uint32_t)draw(4);
        }
        for (int i = 0; i < MANY; i++) {
            all[i].weight = all[i].weight ? all[i].weight : 100;
            observe(&all[i], now);
        }
        wait = turns_look(&card, now);
        if (wrong(now))
            return 1;
        if (wait > 10000000)
            return printf("sleeps for %llu ns\n", (unsigned long long)wait), 1;
        now += wait ? wait : 1000;
    }
    printf("ok %llu\n", (unsigned long long)card.epoch);
    return 0;
}
