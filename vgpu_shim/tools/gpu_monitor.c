/* gpu-monitor: what this container's slice is and how it is used, from its limits file and usage region alone: no GPU, no driver, no NVML.
 * Options and fields are those of Flex:ai's tool of this name, so that scripts written for it keep working; docs/gpu-monitor.md. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/util.h"
#include "monitor.h"

enum { DEFAULT_PERIOD = 60, WATCH_PERIOD = 1, LONGEST_PERIOD = 86400 };

struct options {
    long period; /* seconds, 0 = not given */
    bool watch;
    struct style style;
};

static int usage(FILE *out, int status)
{
    fputs("usage: gpu-monitor [-p SECONDS] [-o json|table] [-d] [-w]\n"
          "Show this container's GPU slices: compute used over the period, memory now, per process.\n"
          "  -p, --period SECONDS   1 to 86400 (default 60; with --watch 1)\n"
          "  -o, --output FORMAT    table (default) or json, memory in bytes\n"
          "  -d, --details          in the table too: memory of contexts, modules and data, time throttled, allocations refused\n"
          "  -w, --watch            go on until interrupted, once a period\n"
          "  -h, --help             this text\n",
          out);
    return status;
}

/* -1 to go on, else the exit status. */
static int parse(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {{"period", 1, NULL, 'p'}, {"output", 1, NULL, 'o'}, {"details", 0, NULL, 'd'},
                                          {"watch", 0, NULL, 'w'},  {"help", 0, NULL, 'h'},   {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "p:o:dwh", known, NULL)) != -1;) {
        char *end = NULL;
        switch (c) {
        case 'h': return usage(stdout, 0);
        case 'd': options->style.details = true; break;
        case 'w': options->watch = true; break;
        case 'p':
            options->period = strtol(optarg, &end, 10);
            if (end == optarg || *end || options->period < 1 || options->period > LONGEST_PERIOD)
                return usage(stderr, 2);
            break;
        case 'o':
            options->style.json = strcmp(optarg, "json") == 0;
            if (!options->style.json && strcmp(optarg, "table") != 0)
                return usage(stderr, 2);
            break;
        default: return usage(stderr, 2);
        }
    }
    if (!options->period)
        options->period = options->watch ? WATCH_PERIOD : DEFAULT_PERIOD;
    return optind < argc ? usage(stderr, 2) : -1;
}

static int failed(const char *error)
{
    fprintf(stderr, "gpu-monitor: %s\n", error);
    return 1;
}

/* False when nobody reads any more. */
static bool show(const struct options *options, const struct reader *reader, const struct sample *before, const struct sample *after)
{
    if (options->watch && !options->style.json && isatty(STDOUT_FILENO))
        fputs("\033[H\033[2J", stdout);
    monitor_print(stdout, &options->style, &reader->limits, before, after);
    return fflush(stdout) == 0;
}

int main(int argc, char **argv)
{
    static struct sample samples[2];
    struct sample *before = &samples[0], *after = &samples[1];
    struct options options = {0};
    struct reader reader = {.fd = -1};
    char error[256];
    int status = parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (!monitor_read(&reader, before, error, sizeof error))
        return failed(error);
    do {
        if (before->there || options.watch) /* nothing to wait for before the first GPU call */
            mica_sleep((uint64_t)options.period * 1000000000u);
        if (!monitor_read(&reader, after, error, sizeof error))
            return failed(error);
        if (!show(&options, &reader, before, after))
            return 1;
        struct sample *old = before;
        before = after;
        after = old;
    } while (options.watch);
    return 0;
}
