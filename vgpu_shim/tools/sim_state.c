/* sim-state: print what the simulated cards really did, as JSON. Format: ../sim/README.md. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../sim/config.h"

static struct sim_config config;

static void print_processes(struct sim_state *state, int gpu)
{
    const char *comma = "";
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++) {
        if (!sim_state_slot_alive(state, (int)s))
            continue;
        const struct sim_slot *slot = &state->slots[s];
        uint64_t bytes = sim_state_bytes(state, gpu, (int)s);
        if (!bytes && !slot->busy_ns[gpu])
            continue;
        printf("%s{\"pid\":%" PRIu32 ",\"bytes\":%" PRIu64 ",\"overhead\":%" PRIu64 ",\"busy_ns\":%" PRIu64 ",\"work_ns\":%" PRIu64 ",\"kernels\":%" PRIu64 "}",
               comma, sim_state_slot_pid(state, (int)s), bytes, slot->overhead[gpu], slot->busy_ns[gpu], slot->work_ns[gpu], slot->kernels[gpu]);
        comma = ",";
    }
}

static int print_cards(struct sim_state *state)
{
    printf("{\"gpus\":[");
    for (int i = 0; i < config.count; i++) {
        int gpu = sim_state_gpu(state, config.cards[i].uuid);
        if (gpu < 0)
            return 1;
        sim_state_lock(gpu);
        if (sim_state_same_clock(state)) { /* else only look: time is not ours to move */
            sim_state_reap(state, gpu, true);
            sim_sched_advance(state, gpu, &config.timing);
        }
        printf("%s{\"uuid\":\"%s\",\"memory_total\":%" PRIu64 ",\"memory_used\":%" PRIu64 ",\"busy_ns\":%" PRIu64 ",\"now_ns\":%" PRIu64
               ",\"processes\":[",
               i ? "," : "", config.cards[i].uuid, config.cards[i].memory, sim_state_used(state, gpu), state->gpus[gpu].busy_ns,
               state->gpus[gpu].time_ns);
        print_processes(state, gpu);
        printf("]}");
        sim_state_unlock(gpu);
    }
    puts("]}");
    return fflush(stdout) ? 1 : 0;
}

/* sim-state [EVERY_MS COUNT]: once, or COUNT times, EVERY_MS apart in the time of this process. */
int main(int argc, char **argv)
{
    char error[768];
    long every = argc == 3 ? atol(argv[1]) : 0, count = argc == 3 ? atol(argv[2]) : 1;
    if ((argc != 1 && argc != 3) || count < 1 || every < 0) {
        fprintf(stderr, "usage: %s [EVERY_MS COUNT]\n", argv[0]);
        return 2;
    }
    if (!sim_config_read(&config, error, sizeof error)) {
        fprintf(stderr, "sim-state: %s\n", error);
        return 1;
    }
    struct sim_state *state = sim_state_open();
    if (!state)
        return 1;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (long n = 0; n < count; n++) {
        next.tv_sec += every / 1000 + (next.tv_nsec + every % 1000 * 1000000) / 1000000000;
        next.tv_nsec = (next.tv_nsec + every % 1000 * 1000000) % 1000000000;
        if (argc == 3)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        if (print_cards(state))
            return 1;
    }
    return 0;
}
