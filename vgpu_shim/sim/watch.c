/* Calls that are written to a trace or made to fail, as the config says. Every call of a program comes by here while `sim_watch` is set. */
#include "sim.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "watch.h"

static const char *const names[] = {
#include "sim_names.inc"
};
enum { NAMES = sizeof names / sizeof names[0] };

/* An instrument: a program may define it, and is then told of each call from within it. */
__attribute__((weak)) void mica_sim_called(const char *name, const uint64_t *arguments);

int sim_watch = 1; /* until the config has been read */
static struct sim_config config;
static _Atomic uint64_t calls[SIM_FAULTS];
static int trace_fd = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    char error[768], path[512];
    bool any = false;
    if (!sim_config_read(&config, error, sizeof error)) {
        config = (struct sim_config){0}; /* cuInit says what is wrong */
        sim_watch = 0;
        return;
    }
    snprintf(path, sizeof path, "%s/trace", sim_config_dir());
    if (config.trace)
        trace_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    for (int i = 0; i < SIM_FAULTS; i++)
        any = any || config.faults[i].nth;
    sim_watch = any || trace_fd >= 0;
}

/* One line per call: nanoseconds, pid, function, the first four arguments, the error that was put in place of the call (-1: none). */
static void trace(const char *name, const uint64_t *arguments, int code)
{
    char line[256];
    int length = snprintf(line, sizeof line, "%" PRIu64 " %d %s %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %d\n", sim_clock_ns(), getpid(), name,
                          arguments[0], arguments[1], arguments[2], arguments[3], code);
    if (write(trace_fd, line, (size_t)length) != length) {
        (void)close(trace_fd); /* a full disk: no trace is better than half lines */
        trace_fd = -1;
    }
}

int sim_watched(int number, const uint64_t *arguments)
{
    (void)pthread_once(&once, start);
    int code = -1;
    if (number < 0 || number >= (int)NAMES)
        return -1;
    for (int i = 0; i < SIM_FAULTS && code == -1; i++) {
        const struct sim_fault *fault = &config.faults[i];
        if (!fault->nth || strcmp(fault->function, names[number]) != 0)
            continue;
        uint64_t call = ++calls[i];
        if (call == fault->nth || (fault->later && call > fault->nth))
            code = fault->code == SIM_FAULT_BLOCK ? -2 : fault->code;
    }
    if (trace_fd >= 0)
        trace(names[number], arguments, code);
    if (mica_sim_called)
        mica_sim_called(names[number], arguments);
    while (code == -2) {
        struct timespec ts = {.tv_sec = 1};
        nanosleep(&ts, NULL);
    }
    return code;
}
