/* See config.h. */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *sim_config_dir(void)
{
    const char *dir = getenv("MICA_SIM_DIR");
    return dir && *dir ? dir : "/run/mica/sim";
}

static bool number(const char *text, long long low, long long high, long long *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high)
        return false;
    *out = value;
    return true;
}

static bool text(char *out, size_t size, const char *value)
{
    if (!*value || strlen(value) >= size)
        return false;
    memcpy(out, value, strlen(value) + 1);
    return true;
}

static bool uuid(char *out, size_t size, const char *value)
{
    static const char shape[] = "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(value) != strlen(shape))
        return false;
    for (size_t i = 0; shape[i]; i++)
        if (shape[i] == 'x' ? !isxdigit((unsigned char)value[i]) : value[i] != shape[i])
            return false;
    return text(out, size, value);
}

static bool health(const char *value, unsigned *xid)
{
    long long n = 0;
    if (strcmp(value, "ok") != 0 && (strncmp(value, "xid:", 4) != 0 || !number(value + 4, 1, 1000, &n)))
        return false;
    *xid = (unsigned)n;
    return true;
}

static bool set_card(struct sim_card *card, const char *key, const char *value)
{
    long long n = 0;
    if (strcmp(key, "uuid") == 0)
        return uuid(card->uuid, sizeof card->uuid, value);
    if (strcmp(key, "model") == 0)
        return text(card->model, sizeof card->model, value);
    if (strcmp(key, "health") == 0)
        return health(value, &card->xid);
    if (strcmp(key, "pci") == 0) {
        unsigned domain, bus, device, function;
        int used = 0;
        return sscanf(value, "%8x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) == 4 && !value[used]
            && text(card->pci, sizeof card->pci, value);
    }
    if (strcmp(key, "cc") == 0) {
        int used = 0;
        return sscanf(value, "%2d.%1d%n", &card->cc_major, &card->cc_minor, &used) == 2 && !value[used];
    }
    if (strcmp(key, "memory") == 0 && number(value, 1, INT64_C(1) << 47, &n)) {
        card->memory = (uint64_t)n;
        return true;
    }
    if (strcmp(key, "sms") == 0 && number(value, 1, 4096, &n)) {
        card->sms = (int)n;
        return true;
    }
    if (strcmp(key, "numa") == 0 && number(value, -1, 1024, &n)) {
        card->numa = (int)n;
        return true;
    }
    return false;
}

static bool set_link(struct sim_config *config, int a, int b, const char *value)
{
    static const char *const names[] = {"", "PIX", "PXB", "PHB", "NODE", "SYS"};
    long long n = 0;
    int link = 0;
    if (strncmp(value, "NV", 2) == 0 && number(value + 2, 1, 18, &n))
        link = SIM_LINK_NV + (int)n;
    for (int i = 1; i < 6; i++)
        if (strcmp(value, names[i]) == 0)
            link = i;
    if (!link || a == b || a < 0 || b < 0 || a >= SIM_GPUS || b >= SIM_GPUS)
        return false;
    config->links[a][b] = config->links[b][a] = (uint8_t)link;
    return true;
}

/* function:nth[+]:code or function:nth[+]:block */
static bool set_fault(struct sim_fault *fault, const char *value)
{
    char code[16], plus[2] = "";
    long long n = 0;
    unsigned long long nth = 0;
    if (sscanf(value, "%63[A-Za-z0-9_]:%llu%1[+]:%15s", fault->function, &nth, plus, code) != 4
        && (plus[0] = '\0', sscanf(value, "%63[A-Za-z0-9_]:%llu:%15s", fault->function, &nth, code)) != 3)
        return false;
    bool block = strcmp(code, "block") == 0;
    if (!nth || (!block && !number(code, 1, 999, &n)))
        return false;
    fault->nth = nth;
    fault->later = plus[0] == '+';
    fault->code = block ? SIM_FAULT_BLOCK : (int)n;
    return true;
}

/* Keys whose value is a number: where it goes, its bounds, by what it is multiplied. */
static bool set_number(struct sim_config *config, const char *key, const char *value)
{
    struct sim_memory *memory = &config->memory;
    struct sim_timing *timing = &config->timing;
    const struct { const char *key; uint64_t *at; long long low, high; uint64_t unit; bool power; } numbers[] = {
        {"granularity", &memory->granularity, 1, 1 << 30, 1, true},
        {"pitch_align", &memory->pitch, 1, 1 << 20, 1, true},
        {"pool_align", &memory->pool_unit, 1, 1 << 30, 1, true},
        {"pool_chunk", &memory->pool_chunk, 1, INT64_C(1) << 40, 1, false},
        {"context_overhead", &memory->context, 0, INT64_C(1) << 40, 1, false},
        {"module_overhead", &memory->module, 0, INT64_C(1) << 40, 1, false},
        {"slice_us", &timing->slice_ns, 10, 10000000, 1000, false},
        {"switch_us", &timing->switch_ns, 0, 1000000, 1000, false},
        {"inflation_permille", &timing->inflation, 0, 1000, 1, false},
        {"sample_ms", &timing->sample_ns, 10, 10000, 1000000, false},
        {"seed", &config->seed, 0, INT64_MAX, 1, false},
        {"noise_permille", &config->noise, 0, 500, 1, false},
        {"completion_ns", &config->completion_ns, 0, 100000000, 1, false},
        {"launch_ns", &config->launch_ns, 0, 100000000, 1, false},
        {"call_ns", &config->call_ns, 0, 100000000, 1, false},
        {"copy_gbps", &config->copy_gbps, 0, 100000, 1, false},
        {"fill_gbps", &config->fill_gbps, 0, 100000, 1, false},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        long long n = 0;
        if (strcmp(key, numbers[i].key) != 0)
            continue;
        if (!number(value, numbers[i].low, numbers[i].high, &n) || (numbers[i].power && (n & (n - 1))))
            return false;
        *numbers[i].at = (uint64_t)n * numbers[i].unit;
        return true;
    }
    return false;
}

/* Memory figures that nothing on this side of the driver can know. Applies to keys that come after it. */
static bool set_memory_seed(struct sim_memory *memory, const char *value)
{
    long long n = 0;
    if (!number(value, 0, INT64_MAX, &n))
        return false;
    uint64_t seed = (uint64_t)n;
    memory->granularity = UINT64_C(65536) << sim_random(&seed) % 7;
    memory->pitch = UINT64_C(128) << sim_random(&seed) % 5;
    memory->pool_unit = UINT64_C(512) << sim_random(&seed) % 4;
    memory->pool_chunk = memory->granularity * (1 + sim_random(&seed) % 16);
    memory->context = (UINT64_C(150) << 20) + (sim_random(&seed) % 7200) * 65536;
    memory->module = sim_random(&seed) % 512 * 65536;
    return true;
}

uint64_t sim_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static bool set(struct sim_config *config, const char *key, const char *value)
{
    long long n = 0;
    int a, b, used = 0;
    if (sscanf(key, "fault.%2d%n", &a, &used) == 1 && used && !key[used] && a >= 0 && a < SIM_FAULTS)
        return set_fault(&config->faults[a], value);
    used = 0;
    if (sscanf(key, "gpu.%2d.%n", &a, &used) == 1 && used && a >= 0 && a < SIM_GPUS)
        return set_card(&config->cards[a], key + used, value);
    if (sscanf(key, "link.%2d.%2d%n", &a, &b, &used) == 2 && used && !key[used])
        return set_link(config, a, b, value);
    if (strcmp(key, "version") == 0)
        return strcmp(value, "1") == 0;
    if (strcmp(key, "driver") == 0)
        return text(config->driver, sizeof config->driver, value);
    if (strcmp(key, "cuda") == 0 && number(value, 11000, 99990, &n))
        config->cuda = (int)n;
    else if (strcmp(key, "gpus") == 0 && number(value, 1, SIM_GPUS, &n))
        config->count = (int)n;
    else if (strcmp(key, "trace") == 0 && number(value, 0, 1, &n))
        config->trace = n != 0;
    else if (strcmp(key, "managed") == 0 && (strcmp(value, "device") == 0 || strcmp(value, "oversubscribe") == 0))
        config->memory.oversubscribe = value[0] == 'o';
    else if (strcmp(key, "memory_seed") == 0)
        return set_memory_seed(&config->memory, value);
    else
        return set_number(config, key, value);
    return true;
}

static void defaults(struct sim_config *config)
{
    memset(config, 0, sizeof *config);
    snprintf(config->driver, sizeof config->driver, "580.95.05");
    config->cuda = 13000;
    config->seed = 1;
    config->launch_ns = 4500;
    config->call_ns = 500;
    config->copy_gbps = 25;
    config->fill_gbps = 1500;
    config->timing = (struct sim_timing){.slice_ns = 2000000, .sample_ns = 500000000};
    config->memory = (struct sim_memory){.granularity = UINT64_C(2) << 20, .pitch = 512};
    for (int g = 0; g < SIM_GPUS; g++) {
        struct sim_card *card = &config->cards[g];
        *card = (struct sim_card){.memory = UINT64_C(80) << 30, .sms = 132, .cc_major = 9, .numa = -1, .id = g};
        snprintf(card->model, sizeof card->model, "NVIDIA H100 80GB HBM3");
        snprintf(card->pci, sizeof card->pci, "00000000:%02x:00.0", 0x10 + g);
    }
}

static bool visible(const char *id)
{
    const char *list = getenv("MICA_SIM_VISIBLE");
    if (!list || !*list)
        return true;
    size_t length = strlen(id);
    for (const char *at = list; (at = strstr(at, id)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length]))
            return true;
    return false;
}

/* The value of a `key = value` line with spaces trimmed; NULL when there is nothing to read. */
static char *split(char *line)
{
    line[strcspn(line, "\r\n")] = '\0';
    char *comment = strstr(line, " #");
    if (comment)
        *comment = '\0';
    for (size_t n = strlen(line); n && line[n - 1] == ' '; n--)
        line[n - 1] = '\0';
    char *equals = strchr(line, '=');
    if (line[0] == '#' || !equals)
        return NULL;
    *equals = '\0';
    return equals + 1;
}

static bool parse(struct sim_config *config, FILE *file, char *error, unsigned size)
{
    char line[512];
    bool version = false;
    for (int n = 1; fgets(line, sizeof line, file); n++) {
        char *value = split(line);
        if (!value && line[0] && line[0] != '#') {
            snprintf(error, size, "line %d: expected key=value", n);
            return false;
        }
        if (!value)
            continue;
        if (!set(config, line, value)) {
            snprintf(error, size, "line %d: unknown key or bad value: %s=%s", n, line, value);
            return false;
        }
        version = version || strcmp(line, "version") == 0;
    }
    struct sim_memory *memory = &config->memory;
    memory->pool_unit = memory->pool_unit ? memory->pool_unit : memory->granularity;
    memory->pool_chunk = memory->pool_chunk ? memory->pool_chunk : memory->granularity;
    if (!version || config->count == 0) {
        snprintf(error, size, "version=1 and gpus=N are required");
        return false;
    }
    for (int g = 0; g < config->count; g++)
        for (int other = 0; other <= g; other++)
            if (!config->cards[g].uuid[0] || (other < g && strcmp(config->cards[g].uuid, config->cards[other].uuid) == 0)) {
                snprintf(error, size, "gpu.%d.uuid is missing or not unique", g);
                return false;
            }
    return true;
}

static bool read_all(struct sim_config *config, char *error, unsigned size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config", sim_config_dir());
    defaults(config);
    FILE *file = fopen(path, "re");
    if (!file) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
        return false;
    }
    char reason[384];
    bool ok = parse(config, file, reason, sizeof reason);
    fclose(file);
    if (!ok)
        snprintf(error, size, "%s: %s", path, reason);
    return ok;
}

bool sim_config_read(struct sim_config *config, char *error, unsigned size)
{
    if (!read_all(config, error, size))
        return false;
    int kept = 0;
    for (int g = 0; g < config->count; g++)
        if (visible(config->cards[g].uuid))
            config->cards[kept++] = config->cards[g];
    config->count = kept;
    return true;
}

unsigned sim_config_health(const char *id)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct sim_config latest;
    static struct stat seen;
    static uint64_t looked_at;
    pthread_mutex_lock(&mutex);
    uint64_t now = sim_clock_ns();
    if (now - looked_at > 50000000u) {
        char path[512], error[512];
        struct stat st;
        looked_at = now ? now : 1;
        snprintf(path, sizeof path, "%s/config", sim_config_dir());
        if (stat(path, &st) == 0
            && (st.st_ino != seen.st_ino || st.st_size != seen.st_size || st.st_mtim.tv_sec != seen.st_mtim.tv_sec
                || st.st_mtim.tv_nsec != seen.st_mtim.tv_nsec)) {
            static struct sim_config fresh; /* a half-written file keeps the last good health */
            if (read_all(&fresh, error, sizeof error)) {
                latest = fresh;
                seen = st;
            }
        }
    }
    unsigned xid = 0;
    for (int g = 0; g < latest.count; g++)
        if (strcmp(latest.cards[g].uuid, id) == 0)
            xid = latest.cards[g].xid;
    pthread_mutex_unlock(&mutex);
    return xid;
}

int sim_config_link(const struct sim_config *config, const struct sim_card *a, const struct sim_card *b)
{
    int link = config->links[a->id][b->id];
    if (link != SIM_LINK_DEFAULT)
        return link;
    return a->numa >= 0 && a->numa == b->numa ? SIM_LINK_NODE : SIM_LINK_SYS;
}

void sim_config_uuid_bytes(const char *textual, unsigned char out[16])
{
    int digits = 0;
    memset(out, 0, 16);
    for (const char *at = textual + 4; *at && digits < 32; at++) {
        if (*at == '-')
            continue;
        int value = *at <= '9' ? *at - '0' : (*at | 32) - 'a' + 10;
        out[digits / 2] = (unsigned char)(out[digits / 2] << 4 | value);
        digits++;
    }
}
