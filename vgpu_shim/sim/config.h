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

struct sim_config {
    char driver[32];
    int cuda;
    uint64_t granularity;
    uint64_t overhead;
    uint64_t slice_ns;
    int count;
    struct sim_card cards[SIM_GPUS];
    uint8_t links[SIM_GPUS][SIM_GPUS]; /* by card id; SIM_LINK_NV + n for n NVLinks */
};

const char *sim_config_dir(void);
/* Read the config; on failure false, with the reason in `error`. Only cards that $MICA_SIM_VISIBLE allows are kept. */
bool sim_config_read(struct sim_config *config, char *error, unsigned error_bytes);
/* Health of a card now: the Xid number, 0 when well. Looks at the file at most every 50 ms. */
unsigned sim_config_health(const char *uuid);
/* Relation of two cards, defaults applied. */
int sim_config_link(const struct sim_config *config, const struct sim_card *a, const struct sim_card *b);
/* The 16 bytes of a UUID in text form. */
void sim_config_uuid_bytes(const char *text, unsigned char out[16]);

#endif
