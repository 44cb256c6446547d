/* Reading the clock and sleeping, in virtual time. Threads that take no part get the group's time and real sleeps. */
#include "clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#pragma GCC visibility push(default)

enum { YIELD_NS = 1000, POLL_NS = 1000 };
static const uint64_t second = 1000000000;
static const uint64_t wall_epoch = UINT64_C(1767225600000000000); /* 2026-01-01, for CLOCK_REALTIME */

static long fail(long result)
{
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

static struct timespec spec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / second), .tv_nsec = (long)(ns % second)};
}

static bool is_virtual(clockid_t id, uint64_t *base)
{
    *base = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? wall_epoch - CLOCK_EPOCH : 0;
    return *base || id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_RAW || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    uint64_t base;
    bool on = clk_on();
    if (!clk || !is_virtual(id, &base))
        return (int)fail(clk_raw(SYS_clock_gettime, id, (long)out, 0, 0, 0, 0));
    if (on)
        clk_spend(clk->read_ns); /* so that a loop that waits for the clock ends */
    *out = spec(clk_time() + base);
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec ts;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &ts);
    *out = (struct timeval){.tv_sec = ts.tv_sec, .tv_usec = ts.tv_nsec / 1000};
    return result;
}

time_t time(time_t *out)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    if (out)
        *out = ts.tv_sec;
    return ts.tv_sec;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *wanted, struct timespec *rest)
{
    uint64_t base;
    if (!clk_on() || !is_virtual(id, &base))
        return (int)-clk_raw(SYS_clock_nanosleep, id, flags, (long)wanted, (long)rest, 0, 0);
    if (wanted->tv_sec < 0 || wanted->tv_nsec < 0 || wanted->tv_nsec >= (long)second)
        return EINVAL;
    uint64_t ns = (uint64_t)wanted->tv_sec * second + (uint64_t)wanted->tv_nsec;
    uint64_t wake = flags & TIMER_ABSTIME ? (ns > base ? ns - base : 0) : clk_time() + ns;
    (void)clk_block(wake, 0);
    return 0;
}

int nanosleep(const struct timespec *wanted, struct timespec *rest)
{
    int error = clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, rest);
    if (error)
        errno = error;
    return error ? -1 : 0;
}

int usleep(useconds_t us)
{
    struct timespec ts = spec((uint64_t)us * 1000);
    return nanosleep(&ts, NULL);
}

unsigned sleep(unsigned seconds)
{
    struct timespec ts = spec(seconds * second);
    return nanosleep(&ts, NULL) ? seconds : 0;
}

int sched_yield(void);
int sched_yield(void)
{
    if (!clk_on())
        return (int)fail(clk_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0));
    (void)clk_block(clk_time() + YIELD_NS, 0);
    return 0;
}

/* Waiting for descriptors: what is ready is seen now or when the wait is over; without a time limit the thread steps out of virtual time. */

static long wait_ready(long (*look)(void *call, long timeout_ms), void *call, bool forever, uint64_t ns)
{
    if (!clk_on())
        return 0;
    long found = look(call, 0);
    if (found)
        return found;
    if (!forever) {
        (void)clk_block(clk_time() + ns, 0);
        return look(call, 0);
    }
    clk_leave();
    found = look(call, -1);
    clk_enter();
    return found;
}

struct poll_call { struct pollfd *fds; nfds_t count; const sigset_t *mask; };

static long look_poll(void *argument, long timeout_ms)
{
    struct poll_call *call = argument;
    struct timespec ts = {0};
    return clk_raw(SYS_ppoll, (long)call->fds, (long)call->count, timeout_ms < 0 ? 0 : (long)&ts, (long)call->mask, 8, 0);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    struct poll_call call = {fds, count, NULL};
    if (!clk_on())
        return (int)fail(clk_raw(SYS_poll, (long)fds, (long)count, timeout, 0, 0, 0));
    return (int)fail(wait_ready(look_poll, &call, timeout < 0, (uint64_t)(timeout < 0 ? 0 : timeout) * 1000000u + POLL_NS));
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    struct poll_call call = {fds, count, mask};
    if (!clk_on()) {
        struct timespec copy = timeout ? *timeout : (struct timespec){0};
        return (int)fail(clk_raw(SYS_ppoll, (long)fds, (long)count, timeout ? (long)&copy : 0, (long)mask, 8, 0));
    }
    uint64_t ns = timeout ? (uint64_t)timeout->tv_sec * second + (uint64_t)timeout->tv_nsec : 0;
    return (int)fail(wait_ready(look_poll, &call, !timeout, ns + POLL_NS));
}

struct epoll_call { int fd; struct epoll_event *events; int count; };

static long look_epoll(void *argument, long timeout_ms)
{
    struct epoll_call *call = argument;
    return clk_raw(SYS_epoll_wait, call->fd, (long)call->events, call->count, timeout_ms, 0, 0);
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout)
{
    struct epoll_call call = {fd, events, count};
    if (!clk_on())
        return (int)fail(clk_raw(SYS_epoll_wait, fd, (long)events, count, timeout, 0, 0));
    return (int)fail(wait_ready(look_epoll, &call, timeout < 0, (uint64_t)(timeout < 0 ? 0 : timeout) * 1000000u + POLL_NS));
}

struct select_call { int count; fd_set *in[3], wanted[3]; };

static long look_select(void *argument, long timeout_ms)
{
    struct select_call *call = argument;
    struct timeval zero = {0};
    for (int i = 0; i < 3; i++)
        if (call->in[i])
            *call->in[i] = call->wanted[i];
    return clk_raw(SYS_select, call->count, (long)call->in[0], (long)call->in[1], (long)call->in[2], timeout_ms < 0 ? 0 : (long)&zero, 0);
}

int select(int count, fd_set *restrict readable, fd_set *restrict writable, fd_set *restrict special, struct timeval *restrict timeout)
{
    if (!clk_on())
        return (int)fail(clk_raw(SYS_select, count, (long)readable, (long)writable, (long)special, (long)timeout, 0));
    struct select_call call = {count, {readable, writable, special}, {{{0}}}};
    for (int i = 0; i < 3; i++)
        if (call.in[i])
            call.wanted[i] = *call.in[i];
    uint64_t ns = timeout ? (uint64_t)timeout->tv_sec * second + (uint64_t)timeout->tv_usec * 1000 : 0;
    return (int)fail(wait_ready(look_select, &call, !timeout, ns + POLL_NS));
}

/* Waiting for children: what they do takes virtual time, which the waiting thread must not hold up. */

static bool out(void)
{
    bool on = clk_on();
    if (on)
        clk_leave();
    return on;
}

static long back(bool was_on, long result)
{
    if (was_on)
        clk_enter();
    return fail(result);
}

pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
    bool on = !(options & WNOHANG) && out();
    return (pid_t)back(on, clk_raw(SYS_wait4, pid, (long)status, options, (long)usage, 0, 0));
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

pid_t wait(int *status)
{
    return wait4(-1, status, 0, NULL);
}

int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    bool on = !(options & WNOHANG) && out();
    return (int)back(on, clk_raw(SYS_waitid, (long)type, (long)id, (long)info, options, 0, 0));
}

int pause(void)
{
    bool on = out();
    return (int)back(on, clk_raw(SYS_pause, 0, 0, 0, 0, 0, 0));
}

int sigsuspend(const sigset_t *mask)
{
    bool on = out();
    return (int)back(on, clk_raw(SYS_rt_sigsuspend, (long)mask, 8, 0, 0, 0, 0));
}

#pragma GCC visibility pop
