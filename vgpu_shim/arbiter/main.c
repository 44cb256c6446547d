/* mica-arbiter: lends the cards of a node out in turns, so that each container's share holds beside its neighbours. Reads the containers' usage
 * regions, publishes the node page. Keeps nothing: it may be killed and started again at any time. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../src/util.h"
#include "page.h"

enum { SCAN_NS = 20000000, CARDS = 64, CALM_NS = 5000000 };

struct seat {
    struct container *container;
    unsigned gpu;
};

static struct {
    char uuid[48];
    struct card card;
    struct seat seats[TURNS_MOST];
} cards[CARDS];
static unsigned card_count;
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static int card_of(const char *uuid)
{
    for (unsigned k = 0; k < card_count; k++)
        if (strcmp(cards[k].uuid, uuid) == 0)
            return (int)k;
    if (!uuid[0] || card_count == CARDS)
        return -1;
    snprintf(cards[card_count].uuid, sizeof cards[0].uuid, "%s", uuid);
    return (int)card_count++;
}

/* For whom no turns are taken, because nobody would ever give it one. */
static const struct contender unseated = {.until = MICA_TURN_OPEN};

/* Who is on which card, after a scan found a change. Turns begin anew. */
static void seat_all(void)
{
    card_count = 0;
    for (unsigned k = 0; k < CARDS; k++) {
        cards[k].card.count = 0;
        turns_reset(&cards[k].card);
    }
    for (unsigned i = 0; i < MICA_NODE_CONTAINERS; i++) {
        struct container *c = &containers[i];
        page_name(i, c->fd < 0 ? 0 : c->inode, c->device);
        for (unsigned g = 0; c->fd >= 0 && g < MICA_GPUS; g++) {
            const int k = g < c->gpus ? card_of(c->uuid[g]) : -1;
            if (k < 0 || cards[k].card.count == TURNS_MOST) { /* its limits cannot be read, perhaps: it goes by its own balance */
                page_grant(i, g, &unseated);
                continue;
            }
            struct card *card = &cards[k].card;
            cards[k].seats[card->count] = (struct seat){c, g};
            card->list[card->count++] = &c->gpu[g];
        }
    }
}

static uint64_t look(unsigned k)
{
    struct card *card = &cards[k].card;
    uint64_t now = mica_now();
    for (unsigned i = 0; i < card->count; i++)
        containers_read(cards[k].seats[i].container, cards[k].seats[i].gpu);
    uint64_t wait = turns_look(card, now);
    for (unsigned i = 0; i < card->count; i++)
        page_grant((unsigned)(cards[k].seats[i].container - containers), cards[k].seats[i].gpu, card->list[i]);
    return wait;
}

static void serve(const struct source *source)
{
    static uint64_t due[CARDS];
    uint64_t scan_at = 0;
    while (!stop) {
        uint64_t now = mica_now(), next = now + CALM_NS;
        page_beat(now);
        if (now >= scan_at) {
            if (containers_scan(source)) {
                seat_all();
                memset(due, 0, sizeof due);
            }
            scan_at = now + SCAN_NS;
        }
        for (unsigned k = 0; k < card_count; k++) {
            for (int again = 0; now >= due[k] && again < 2; again++)
                due[k] = now + look(k);
            next = due[k] < next ? due[k] : next;
        }
        mica_sleep(next > now ? next - now : 1000);
    }
}

static int usage(FILE *out, int status)
{
    fputs("usage: mica-arbiter --slices DIR --page FILE\n"
          "       mica-arbiter --dir DIR\n"
          "       mica-arbiter --check FILE\n"
          "Lend the GPUs out in turns to the containers whose slices are in DIR (the node agent's), or to this user's programs that run\n"
          "under the limiter without an agent and have their usage regions in DIR ($XDG_RUNTIME_DIR, or /tmp without one).\n"
          "--check succeeds while an arbiter keeps that page.\n",
          out);
    return status;
}

static int wrong(const char *what, const char *why)
{
    fprintf(stderr, "mica-arbiter: %s: %s\n", what, why);
    return 2;
}

/* 0, or the status to end with. The node agent starts beside us and makes the directory of slices: one that is not there yet is waited for. */
static int check_directory(const struct source *source)
{
    struct stat st;
    const char *path = source->alone ? source->alone : source->slices;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : wrong(path, "is not a directory");
    if (errno != ENOENT || source->alone)
        return wrong(path, strerror(errno));
    fprintf(stderr, "mica-arbiter: %s: is not there; nobody is served until the node agent makes it\n", path);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"slices", 1, NULL, 's'}, {"page", 1, NULL, 'p'}, {"dir", 1, NULL, 'd'}, {"check", 1, NULL, 'c'}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct source source = {0};
    char made[4096];
    const char *page = NULL;
    for (int c; (c = getopt_long(argc, argv, "h", known, NULL)) != -1;) {
        switch (c) {
        case 's': source.slices = optarg; break;
        case 'p': page = optarg; break;
        case 'c': return page_alive(optarg) ? 0 : 1;
        case 'd': source.alone = optarg; break;
        case 'h': return usage(stdout, 0);
        default: return usage(stderr, 2);
        }
    }
    if (optind < argc)
        return wrong(argv[optind], "is not an option; see --help");
    if (!source.slices == !source.alone || !source.slices != !page)
        return usage(stderr, wrong("options", "either --slices and --page, or --dir"));
    if (source.alone) {
        if (snprintf(made, sizeof made, "%s/mica-%u.node", source.alone, (unsigned)getuid()) >= (int)sizeof made)
            return wrong(source.alone, "too long");
        page = made;
    }
    const int status = check_directory(&source);
    if (status)
        return status;
    const struct sigaction action = {.sa_handler = on_signal};
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)setpriority(PRIO_PROCESS, 0, -10); /* where that is allowed: everybody waits for us */
    if (!page_open(page))
        return 1;
    serve(&source);
    page_leave();
    return 0;
}
