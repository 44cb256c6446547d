/* sim-state: print what the simulated cards really did, as JSON. Format: ../sim/README.md. */
#include <inttypes.h>
#include <stdio.h>

#include "../sim/config.h"

static void print_processes(struct sim_state *state, int gpu)
{
    const char *comma = "";
    for (uint32_t s = 0; s < state->slots_used && s < SIM_SLOTS; s++) {
        if (!sim_state_slot_alive(state, (int)s))
            continue;
        const struct sim_slot *slot = &state->slots[s];
        if (!slot->bytes[gpu] && !slot->busy_ns[gpu])
            continue;
        printf("%s{\"pid\":%" PRIu32 ",\"bytes\":%" PRIu64 ",\"busy_ns\":%" PRIu64 ",\"kernels\":%" PRIu64 "}", comma,
               sim_state_slot_pid(state, (int)s), slot->bytes[gpu], slot->busy_ns[gpu], slot->kernels[gpu]);
        comma = ",";
    }
}

int main(void)
{
    static struct sim_config config;
    char error[768];
    if (!sim_config_read(&config, error, sizeof error)) {
        fprintf(stderr, "sim-state: %s\n", error);
        return 1;
    }
    struct sim_state *state = sim_state_open();
    if (!state)
        return 1;
    printf("{\"gpus\":[");
    for (int i = 0; i < config.count; i++) {
        int gpu = sim_state_gpu(state, config.cards[i].uuid);
        if (gpu < 0)
            return 1;
        sim_state_lock(gpu);
        sim_state_reap(state, gpu, true);
        sim_sched_advance(state, gpu, config.slice_ns);
        printf("%s{\"uuid\":\"%s\",\"memory_total\":%" PRIu64 ",\"memory_used\":%" PRIu64 ",\"busy_ns\":%" PRIu64 ",\"now_ns\":%" PRIu64
               ",\"processes\":[",
               i ? "," : "", config.cards[i].uuid, config.cards[i].memory, sim_state_used(state, gpu), state->gpus[gpu].busy_ns,
               state->gpus[gpu].time_ns);
        print_processes(state, gpu);
        printf("]}");
        sim_state_unlock(gpu);
    }
    puts("]}");
    return 0;
}
