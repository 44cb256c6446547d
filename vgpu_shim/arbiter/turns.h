/* Whose turn is it on a card: deficit round robin by rate and time. Pure: reads and writes these values only, the clock is an argument.
 *
 * With at most one container that works on a card no turns are taken. With more, one at a time may launch; each earns credit at its rate while it wants
 * the card and pays for the time it used; who is furthest behind goes next. A turn ends with launching; the next begins when what was launched is over. */
#ifndef MICA_TURNS_H
#define MICA_TURNS_H

#include <stdbool.h>
#include <stdint.h>

#include "node.h"

enum { TURNS_MOST = MICA_NODE_CONTAINERS };

/* A container on a card. */
struct contender {
    /* by its limits: trusted */
    uint32_t cores; /* percent, 0 = uncapped */
    uint32_t weight, policy, priority;
    /* by its usage region: hostile, used for nothing but its own share */
    uint64_t waiting_at, active_at, inflight_until, busy;
    int64_t balance;
    uint32_t batches;
    /* by the kernel */
    bool alive;
    /* kept between looks */
    int64_t credit; /* ns of card time */
    int64_t unpaid; /* ns that it has had the card and not said to have used: what it runs is charged when it is over */
    uint64_t busy_seen, paid_at, last_active, pressed_at;
    uint64_t busy_at_drain, drained_at, doubted_at;
    uint32_t doubt; /* times that it was waited for in vain, of late */
    bool known, stuck, suppressed;
    bool clear; /* it has nothing on the card: it had not when that was last seen, and was not let since */
    double rate;  /* of the card's time, 0 to 1 */
    double taken; /* time that the card was its, for each part that it used: 1 to TAKEN_MOST */
    /* the answer: as in the node page */
    uint64_t until, epoch;
};

enum phase { PHASE_OPEN, PHASE_DRAIN, PHASE_IDLE, PHASE_TURN };

struct card {
    unsigned count;
    struct contender *list[TURNS_MOST];
    enum phase phase;
    int holder; /* index into the list, -1 = nobody */
    bool floor; /* the turn is the minimum of a suppressed container */
    uint64_t looked_at, granted_at, busy_at_grant, drain_at, idle_at, epoch;
};

/* Look at a card; the contenders' answers are set. Returns how long the next look can wait, ns; 0: publish the answers, read again and look again. */
uint64_t turns_look(struct card *card, uint64_t now);
/* The list is another now: forget who holds what; turns start anew when they are needed. */
void turns_reset(struct card *card);

#endif
