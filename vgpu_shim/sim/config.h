/* The config file of the simulated cards; its format is in README.md. */
#ifndef MICA_SIM_CONFIG_H
#define MICA_SIM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "state.h"

struct sim_card {
    char uuid[48];
    char model[96];
    char pci[32];
    uint64_t memory;
    int sms, cc_major, cc_minor, numa;
    unsigned xid; /* 0 = ok */
    int id;       /* position in the config */
};

enum { SIM_LINK_DEFAULT = 0, SIM_LINK_PIX, SIM_LINK_PXB, SIM_LINK_PHB, SIM_LINK_NODE, SIM_LINK_SYS, SIM_LINK_NV = 100 };

/* How memory is taken from a card. What is not configured comes from the seed, or is the default. */
struct sim_memory {
    uint64_t granularity; /* of every allocation outside of pools */
    uint64_t pitch;       /* rows of pitched allocations and arrays */
    uint64_t pool_unit;   /* of an allocation in a pool */
    uint64_t pool_chunk;  /* by which a pool grows */
    uint64_t context;     /* of a process's first context on a card */
    uint64_t module;      /* of each loaded module */
    bool oversubscribe;   /* managed memory that does not fit lives on the host */
};

enum { SIM_FAULTS = 16, SIM_FAULT_BLOCK = -1 };
/* The nth call of a function (and all later ones) answers with a code, or blocks. */
struct sim_fault {
    char function[64];
    uint64_t nth;
    bool later;
    int code;
};

struct sim_config {
    char driver[32];
    int cuda;
    struct sim_timing timing;
    uint64_t seed;          /* of durations */
    uint64_t noise;         /* permille by which durations vary either way */
    uint64_t completion_ns; /* until the host sees that work is done */
    uint64_t launch_ns, call_ns; /* what calls cost the caller, in virtual time */
    uint64_t copy_gbps, fill_gbps;
    struct sim_memory memory;
    bool trace;
    struct sim_fault faults[SIM_FAULTS];
    int count;
    struct sim_card cards[SIM_GPUS];
    uint8_t links[SIM_GPUS][SIM_GPUS]; /* by card id; SIM_LINK_NV + n for n NVLinks */
};

const char *sim_config_dir(void);
/* The next number of a sequence (splitmix64). */
uint64_t sim_random(uint64_t *state);
/* Read the config; on failure false, with the reason in `error`. Only cards that $MICA_SIM_VISIBLE allows are kept. */
bool sim_config_read(struct sim_config *config, char *error, unsigned error_bytes);
/* Health of a card now: the Xid number, 0 when well. Looks at the file at most every 50 ms. */
unsigned sim_config_health(const char *uuid);
/* Relation of two cards, defaults applied. */
int sim_config_link(const struct sim_config *config, const struct sim_card *a, const struct sim_card *b);
/* The 16 bytes of a UUID in text form. */
void sim_config_uuid_bytes(const char *text, unsigned char out[16]);

#endif
