/* See turns.h. */
#include "turns.h"

#include <stddef.h>

#define MS INT64_C(1000000)
enum { DOUBTS = 8 };
#define FORGIVEN_NS UINT64_C(10000000000) /* a doubt is forgotten after this */
enum {
    WAIT_SEEN_NS = 3000000,     /* a launch that waits says so every millisecond */
    ACTIVE_NS = 1000000,
    RECENT_NS = 100000000,      /* who worked this lately is counted among those that share the card */
    PRESS_NS = 50000000,        /* a higher class keeps the lower ones at their floor this long after it last wanted the card */
    QUANTUM_NS = 20000000,
    BEGIN_NS = 60000000,        /* a capped container's turn is worth this much time at its rate */
    SHORTEST_NS = 1000000,
    BURST_NS = 50000000,
    GRACE_NS = 1000000,         /* a holder with nothing to do keeps the card this long */
    STUCK_NS = 100000000,
    PATIENCE_NS = 1000000000,   /* waited for at most: what the least debt that is kept pays for */
    MISTRUST_NS = 4000000,      /* the same of one that was waited for in vain again and again */
    IN_VAIN_NS = 20000000,
    LOOK_NS = 500000,
    DRAIN_LOOK_NS = 50000
};
#define KEPT_NS (INT64_C(10000) * MS) /* debt and credit, in time at the container's rate */
#define FLOOR_RATE 0.02
#define SLOWEST_RATE 0.02
#define TAKEN_MOST 1.15

static int class_of(const struct contender *c)
{
    return c->priority == MICA_PRIORITY_HIGH ? 2 : c->priority == MICA_PRIORITY_LOW ? 0 : 1;
}

static bool capped(const struct contender *c)
{
    return c->cores > 0 && c->cores < 100;
}

static bool strict(const struct contender *c)
{
    return (capped(c) && c->policy == MICA_POLICY_STRICT) || c->suppressed;
}

static bool lately(uint64_t at, uint64_t now, uint64_t within)
{
    return at <= now + ACTIVE_NS && at + within > now && at != 0;
}

static bool wants(const struct contender *c, uint64_t now)
{
    return c->alive && lately(c->waiting_at, now, WAIT_SEEN_NS);
}

static bool running(const struct contender *c)
{
    return c->alive && c->batches > 0 && !c->stuck && !c->clear;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int64_t worth(const struct contender *c, int64_t ns)
{
    return (int64_t)(c->rate * (double)ns);
}

/* Credit that a capped container needs to be given a turn: else turns would be as short as one launch. */
static int64_t entry(const struct contender *c)
{
    return clamp(worth(c, BEGIN_NS), SHORTEST_NS, QUANTUM_NS);
}

static bool may_begin(const struct contender *c)
{
    return !strict(c) || c->credit >= entry(c);
}

static bool may_go_on(const struct contender *c)
{
    return !strict(c) || c->credit > c->unpaid;
}

/* Share of the card's time each container is due. Uncapped ones are due what is left when the others have used what they were promised, and that takes them a
 * little longer than what they use: launches, changes of turn. */
static void set_rates(struct card *card, uint64_t now)
{
    double promised = 0;
    uint32_t weight = 0;
    for (unsigned i = 0; i < card->count; i++) {
        const struct contender *c = card->list[i];
        if (!lately(c->last_active, now, RECENT_NS))
            continue;
        promised += capped(c) ? c->cores / 100.0 * (c->taken > 1 ? c->taken : 1) : 0;
        weight += capped(c) ? 0 : c->weight;
    }
    const double left = promised < 1 ? 1 - promised : 0;
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        double rate = capped(c) ? c->cores / 100.0 : left * c->weight / (weight > c->weight ? weight : c->weight);
        c->rate = rate < SLOWEST_RATE ? SLOWEST_RATE : rate;
    }
}

/* While a higher class wants the card and may have it, lower ones get their floor. */
static void suppress(struct card *card, uint64_t now)
{
    int highest = -1;
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        if ((wants(c, now) || running(c)) && (!capped(c) || c->policy != MICA_POLICY_STRICT || c->credit > 0))
            c->pressed_at = now;
        if (lately(c->pressed_at, now, PRESS_NS) && class_of(c) > highest)
            highest = class_of(c);
    }
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        bool below = class_of(c) < highest;
        if (below && !c->suppressed && c->credit > 0)
            c->credit = 0;
        c->suppressed = below;
        if (below && c->rate > FLOOR_RATE)
            c->rate = FLOOR_RATE;
    }
}

/* It works or would like to, and has not had its share yet. */
static unsigned is_due(const struct contender *c, uint64_t now)
{
    return (wants(c, now) || running(c)) && may_go_on(c);
}

/* What it used is paid for, what it may use is earned. */
static void settle(struct contender *c, uint64_t now, uint64_t passed, bool alone)
{
    const int64_t kept = worth(c, KEPT_NS) > 1000 * MS ? worth(c, KEPT_NS) : 1000 * MS, burst = worth(c, BURST_NS);
    if (!c->known || c->busy < c->busy_seen) {
        c->known = true;
        c->busy_seen = c->busy;
    }
    int64_t used = (int64_t)(c->busy - c->busy_seen > (uint64_t)KEPT_NS ? (uint64_t)KEPT_NS : c->busy - c->busy_seen);
    if (used || !c->alive || c->batches == 0)
        c->paid_at = now;
    c->busy_seen = c->busy;
    int64_t most = wants(c, now) || running(c) ? kept : burst;
    int64_t earned = worth(c, (int64_t)passed);
    if (c->credit + earned > most)
        earned = c->credit < most ? most - c->credit : 0;
    c->credit = clamp(c->credit + earned - used, -kept, kept);
    if (alone && !strict(c) && c->credit < -burst)
        c->credit = -burst; /* time that nobody else wanted is no debt */
}

static double lag(const struct contender *c)
{
    return (double)(c->credit - c->unpaid) / c->rate;
}

static bool before(const struct contender *a, const struct contender *b)
{
    if (a->suppressed != b->suppressed)
        return a->suppressed; /* it has saved up for its floor */
    if (class_of(a) != class_of(b))
        return class_of(a) > class_of(b);
    return lag(a) > lag(b);
}

/* Who should have the card; `except` is not looked at. -1 = nobody. */
static int pick(const struct card *card, uint64_t now, int except)
{
    int best = -1;
    for (unsigned i = 0; i < card->count; i++) {
        const struct contender *c = card->list[i];
        const bool holds = (int)i == card->holder;
        if ((int)i == except || !(wants(c, now) || (holds && running(c))) || !(holds ? may_go_on(c) : may_begin(c)))
            continue;
        if (best < 0 || before(c, card->list[best]))
            best = (int)i;
    }
    return best;
}

static void say(struct card *card, uint64_t until)
{
    for (unsigned i = 0; i < card->count; i++)
        card->list[i]->until = until;
}

static bool conserving(const struct contender *c)
{
    return capped(c) && c->policy == MICA_POLICY_CONSERVING;
}

/* Nobody else works on the card: who does may go on by its own balance, or, where it may use what others leave, has the card until somebody comes. Who does not
 * work must ask first. */
static void open_card(struct card *card, unsigned busy, uint64_t now)
{
    card->phase = PHASE_OPEN;
    card->holder = -1;
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        c->stuck = c->clear = false;
        const bool works = lately(c->last_active, now, RECENT_NS);
        c->until = !busy ? MICA_TURN_OPEN : !works ? 0 : conserving(c) && c->alive ? now + QUANTUM_NS : MICA_TURN_OPEN;
        const int64_t burst = worth(c, BURST_NS);
        c->credit = capped(c) ? clamp(c->balance, conserving(c) ? -burst : -1000 * MS, burst) : 0;
    }
}

static void drain(struct card *card, uint64_t now)
{
    say(card, 0);
    card->phase = PHASE_DRAIN;
    card->drain_at = now;
    for (unsigned i = 0; i < card->count; i++)
        card->list[i]->busy_at_drain = card->list[i]->busy;
}

/* Time that the holder had and did not use is free up to an eighth, charged beyond. */
static void charge_idle(struct card *card, uint64_t now)
{
    struct contender *c = card->list[card->holder];
    const uint64_t end = c->drained_at > card->granted_at ? c->drained_at : now; /* others may have been waited for longer */
    const int64_t held = (int64_t)(end - card->granted_at), used = clamp((int64_t)(c->busy - card->busy_at_grant), 0, held), idle = held - used;
    if (used > held / 2) {
        double taken = (double)held / (double)used;
        taken = taken > TAKEN_MOST ? TAKEN_MOST : taken;
        c->taken = c->taken > 0 ? c->taken + (taken - c->taken) / 8 : taken;
    }
    if (idle > held / 8)
        c->credit -= idle - held / 8;
}

/* How long its work is waited for. What it says may be a lie, and others pay for the wait: so there is an end to it, which comes sooner each time that
 * it was waited for in vain. */
static uint64_t patience(struct contender *c, const struct card *card, uint64_t now)
{
    if (c->doubt && now - c->doubted_at > FORGIVEN_NS) {
        c->doubt--;
        c->doubted_at = now;
    }
    const uint64_t most = PATIENCE_NS >> c->doubt, said = (uint64_t)clamp((int64_t)(c->inflight_until - card->drain_at), 0, PATIENCE_NS);
    /* Nothing in it sees to its work any more (stopped, killed and not yet missed); or a kernel that never ends. */
    const uint64_t wait = said + said / 2 + (lately(c->active_at, now, STUCK_NS) ? PATIENCE_NS : STUCK_NS);
    return wait < most ? wait : most > MISTRUST_NS ? most : MISTRUST_NS;
}

/* Its part of the drain is over: was the card at work for it meanwhile? */
static void judge_drain(struct contender *c, const struct card *card, uint64_t now)
{
    const uint64_t waited = now - card->drain_at, used = c->busy > c->busy_at_drain ? c->busy - c->busy_at_drain : 0;
    c->drained_at = now;
    if (used >= waited / 2)
        return;
    if (waited > IN_VAIN_NS || (c->doubt && waited >= MISTRUST_NS)) {
        c->doubt += c->doubt < DOUBTS;
        c->doubted_at = now;
    }
}

/* Only who was let to launch since it last had nothing on the card can have something there, whatever it says. */
static bool drained(struct card *card, uint64_t now)
{
    bool all = true;
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        if (c->clear)
            continue;
        if (!c->alive || c->batches == 0) {
            if (!c->stuck)
                judge_drain(c, card, now);
            c->stuck = false;
            c->clear = true;
        } else if (!c->stuck && now - card->drain_at > patience(c, card, now)) {
            judge_drain(c, card, now);
            c->stuck = true;
        }
        all = all && (c->clear || c->stuck);
    }
    return all;
}

/* Time until a container's credit is gone if it runs from now on. */
static int64_t lasts(const struct contender *c)
{
    if (!strict(c))
        return QUANTUM_NS;
    double ns = (double)(c->credit - c->unpaid) / (c->rate < 0.95 ? 1 - c->rate : 0.05);
    return ns > QUANTUM_NS ? QUANTUM_NS : ns < SHORTEST_NS ? SHORTEST_NS : (int64_t)ns;
}

static void grant(struct card *card, int next, uint64_t now)
{
    struct contender *c = card->list[next];
    card->phase = PHASE_TURN;
    card->holder = next;
    card->floor = c->suppressed;
    card->granted_at = now;
    card->busy_at_grant = c->busy;
    card->idle_at = 0;
    c->clear = false;
    c->paid_at = now;
    c->until = now + (uint64_t)lasts(c);
    c->epoch = ++card->epoch;
}

/* The turn goes on, or ends; true when it ended. */
static bool turn_over(struct card *card, uint64_t now)
{
    struct contender *c = card->list[card->holder];
    const int other = pick(card, now, card->holder), best = pick(card, now, -1);
    const bool idle = !running(c) && !wants(c, now);
    card->idle_at = !idle ? 0 : card->idle_at ? card->idle_at : now;
    if (!c->alive || (idle && other >= 0 && now - card->idle_at >= GRACE_NS))
        return true;
    if (other >= 0 && !card->floor && class_of(card->list[other]) > class_of(c))
        return true;
    const bool mine = best == card->holder || (other < 0 && may_go_on(c));
    if (mine && now + LOOK_NS >= c->until)
        c->until = now + LOOK_NS + (uint64_t)lasts(c);
    return now >= c->until;
}

void turns_reset(struct card *card)
{
    card->phase = PHASE_OPEN;
    card->holder = -1;
}

static unsigned busy_containers(struct card *card, uint64_t now)
{
    unsigned count = 0;
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        if (wants(c, now) || (c->alive && c->batches > 0 && !c->clear) || (c->alive && lately(c->active_at, now, ACTIVE_NS)))
            c->last_active = now;
        count += c->alive && lately(c->last_active, now, RECENT_NS);
    }
    return count;
}

static uint64_t next_look(const struct card *card, uint64_t now)
{
    uint64_t wait = LOOK_NS;
    if (card->phase == PHASE_DRAIN)
        return DRAIN_LOOK_NS;
    if (card->phase == PHASE_TURN) {
        const uint64_t until = card->list[card->holder]->until;
        uint64_t left = until > now ? until - now : 0;
        wait = left < wait ? left : wait;
    }
    return wait < DRAIN_LOOK_NS ? DRAIN_LOOK_NS : wait;
}

uint64_t turns_look(struct card *card, uint64_t now)
{
    const uint64_t passed = card->looked_at && now > card->looked_at ? now - card->looked_at : 0;
    const unsigned busy = busy_containers(card, now);
    card->looked_at = now;
    set_rates(card, now);
    suppress(card, now);
    unsigned due = 0;
    for (unsigned i = 0; i < card->count; i++)
        due += is_due(card->list[i], now);
    for (unsigned i = 0; i < card->count; i++) {
        struct contender *c = card->list[i];
        settle(c, now, passed, due <= is_due(c, now));
        c->unpaid = (int)i == card->holder && card->phase == PHASE_TURN && c->alive && c->batches > 0 ? (int64_t)(now - c->paid_at) : 0;
    }
    if (busy < 2) {
        open_card(card, busy, now);
        return busy ? 2 * LOOK_NS : 10 * LOOK_NS;
    }
    if (card->phase == PHASE_OPEN || (card->phase == PHASE_TURN && turn_over(card, now))) {
        drain(card, now);
        return 0; /* what was launched before they could know is seen by looking again */
    }
    if (card->phase == PHASE_DRAIN && drained(card, now)) {
        if (card->holder >= 0)
            charge_idle(card, now);
        card->holder = -1;
        card->phase = PHASE_IDLE;
    }
    if (card->phase == PHASE_IDLE) {
        int next = pick(card, now, -1);
        if (next >= 0)
            grant(card, next, now);
    }
    return next_look(card, now);
}
