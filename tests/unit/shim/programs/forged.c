/* An honest container beside one whose page lies: forged HOW. Prints in percent how much of a minute the honest one could launch, and in milliseconds
 * the longest time that it could not. Made-up clock. */
#include <stdio.h>
#include <string.h>

#include "../../../../vgpu_shim/arbiter/turns.c"

enum { STEP_NS = 50000 };
static const uint64_t minute = UINT64_C(60000000000);

static bool may_launch(const struct contender *c, uint64_t now)
{
    return c->until > now;
}

/* Works whenever it may, in launches of 5 ms, and says so. */
static void work(struct contender *c, uint64_t now, uint64_t passed, uint64_t *left)
{
    if (*left) {
        const uint64_t done = passed < *left ? passed : *left;
        c->busy += done;
        *left -= done;
    }
    if (!*left && may_launch(c, now))
        *left = 5000000;
    c->batches = *left > 0;
    c->waiting_at = now;
    c->active_at = *left ? now : c->active_at;
    c->inflight_until = now + *left;
}

static void lie(struct contender *c, const char *how, uint64_t now)
{
    const uint64_t ms = now / 1000000;
    c->batches = 1;
    c->active_at = now;
    c->inflight_until = now + UINT64_C(1000000000000);
    if (strcmp(how, "blinks") == 0) /* lets every drain end in the end, so that it is believed again */
        c->batches = ms % 1900 != 0;
    if (strcmp(how, "silent") == 0)
        c->active_at = 0;
    if (strcmp(how, "asks") == 0) {
        c->waiting_at = now;
        c->batches = ms % 900 != 0;
    }
    if (strcmp(how, "rests") == 0 && ms % 400 < 150) { /* until turns are no longer taken */
        c->batches = 0;
        c->active_at = 0;
    }
}

int main(int argc, char **argv)
{
    static struct contender honest, liar;
    static struct card card;
    uint64_t start = UINT64_C(1000000000000), now = start, before = now, look_at = now, left = 0, could = 0, since = now, longest = 0;
    honest.weight = liar.weight = 100;
    honest.alive = liar.alive = true;
    card.list[0] = &honest;
    card.list[1] = &liar;
    card.count = 2;
    turns_reset(&card);
    for (; now < start + minute; before = now, now += STEP_NS) {
        work(&honest, now, now - before, &left);
        lie(&liar, argc > 1 ? argv[1] : "", now);
        for (int again = 0; now >= look_at && again < 2; again++)
            look_at = now + turns_look(&card, now);
        if (may_launch(&honest, now)) {
            could += STEP_NS;
            since = now;
        }
        longest = now - since > longest ? now - since : longest;
    }
    printf("[%.1f, %.0f]\n", 100.0 * (double)could / (double)minute, (double)longest / 1e6);
    return 0;
}
