/* Threads, mutexes, conditions, futexes and file locks in virtual time: whoever would wait lets others run instead of holding the turn. */
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_NS = 20000 };
#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)clk_real(#name)

#pragma GCC visibility push(default)

/* Futexes, as programs call them themselves. A shared one is known by its place in its page, the same in all processes; waiters that are woken for a
 * neighbour's sake look again, as every user of futexes must. */

static uint64_t futex_key(const void *address, int op)
{
    return op & FUTEX_PRIVATE_FLAG ? clk_key(address) : UINT64_C(1) << 62 | ((uintptr_t)address & 4095);
}

static uint64_t futex_deadline(int op, const struct timespec *timeout)
{
    if (!timeout)
        return CLOCK_NEVER;
    uint64_t ns = (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec;
    if ((op & FUTEX_CMD_MASK) == FUTEX_WAIT)
        return clk_time() + ns;
    uint64_t wall = UINT64_C(1767225600000000000) - CLOCK_EPOCH;
    return op & FUTEX_CLOCK_REALTIME ? (ns > wall ? ns - wall : 0) : ns;
}

static long futex(uint32_t *address, int op, uint32_t value, const struct timespec *timeout)
{
    int command = op & FUTEX_CMD_MASK;
    if (command == FUTEX_WAKE || command == FUTEX_WAKE_BITSET)
        return clk_wake(futex_key(address, op), value > 1u << 30 ? 1 << 30 : (int)value);
    if (command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET)
        return -ENOSYS; /* nothing else is known in virtual time */
    if (__atomic_load_n(address, __ATOMIC_ACQUIRE) != value)
        return -EAGAIN;
    return clk_block(futex_deadline(op, timeout), futex_key(address, op)) ? 0 : -ETIMEDOUT;
}

long syscall(long number, ...)
{
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    long result = 0;
    if (number == SYS_futex && clk_on())
        result = futex((uint32_t *)a[0], (int)a[1], (uint32_t)a[2], (const struct timespec *)a[3]);
    else if (number == SYS_sched_yield && clk_on())
        result = clk_block(clk_time() + 1000, 0) ? -EINTR : 0;
    else
        result = clk_raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static int do_fcntl(int fd, int command, long argument)
{
    bool waits = command == F_SETLKW || command == 38 /* F_OFD_SETLKW */;
    long result;
    if (waits && clk_on()) {
        int now = command == F_SETLKW ? F_SETLK : 37;
        while ((result = clk_raw(SYS_fcntl, fd, now, argument, 0, 0, 0)) == -EAGAIN || result == -EACCES)
            (void)clk_block(clk_time() + RETRY_NS, 0);
    } else {
        result = clk_raw(SYS_fcntl, fd, command, argument, 0, 0, 0);
    }
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return (int)result;
}

int fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    long argument = va_arg(list, long);
    va_end(list);
    return do_fcntl(fd, command, argument);
}

int fcntl64(int fd, int command, ...);
int fcntl64(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    long argument = va_arg(list, long);
    va_end(list);
    return do_fcntl(fd, command, argument);
}

/* Mutexes. */

static int mutex_waiters;

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_lock);
    if (!clk || clk_self < 0)
        return real(mutex);
    int result;
    while ((result = pthread_mutex_trylock(mutex)) == EBUSY) {
        mutex_waiters++; /* one thread of the group runs at a time */
        (void)clk_block(CLOCK_NEVER, clk_key(mutex));
        mutex_waiters--;
    }
    return result;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_unlock);
    int result = real(mutex);
    if (mutex_waiters && clk && clk_self >= 0 && !result)
        (void)clk_wake(clk_key(mutex), 1);
    return result;
}

/* Conditions are waiting lists of the clock alone; the objects themselves are not touched. */

static int wait_on(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline)
{
    int result = pthread_mutex_unlock(mutex);
    if (result)
        return result;
    bool woken = clk_block(deadline, clk_key(cond));
    (void)pthread_mutex_lock(mutex);
    return woken ? 0 : ETIMEDOUT;
}

int pthread_cond_wait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex)
{
    REAL(pthread_cond_wait);
    return clk_on() ? wait_on(cond, mutex, CLOCK_NEVER) : real(cond, mutex);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    REAL(pthread_cond_timedwait);
    if (!clk_on())
        return real(cond, mutex, until);
    /* the condition's clock cannot be asked for; wall time is decades ahead of the monotonic one */
    int op = FUTEX_WAIT_BITSET | (until->tv_sec > 1000000000 ? FUTEX_CLOCK_REALTIME : 0);
    return wait_on(cond, mutex, futex_deadline(op, until));
}

int pthread_cond_signal(pthread_cond_t *cond)
{
    REAL(pthread_cond_signal);
    if (!clk_on())
        return real(cond);
    (void)clk_wake(clk_key(cond), 1);
    return 0;
}

int pthread_cond_broadcast(pthread_cond_t *cond)
{
    REAL(pthread_cond_broadcast);
    if (!clk_on())
        return real(cond);
    (void)clk_wake(clk_key(cond), CLOCK_THREADS);
    return 0;
}

/* Semaphores. */

int sem_wait(sem_t *semaphore)
{
    REAL(sem_wait);
    if (!clk_on())
        return real(semaphore);
    while (sem_trywait(semaphore) != 0)
        (void)clk_block(CLOCK_NEVER, clk_key(semaphore));
    return 0;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    REAL(sem_timedwait);
    if (!clk_on())
        return real(semaphore, until);
    uint64_t deadline = futex_deadline(FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, until);
    while (sem_trywait(semaphore) != 0)
        if (!clk_block(deadline, clk_key(semaphore))) {
            errno = ETIMEDOUT;
            return -1;
        }
    return 0;
}

int sem_post(sem_t *semaphore)
{
    REAL(sem_post);
    int result = real(semaphore);
    if (!result && clk_on())
        (void)clk_wake(clk_key(semaphore), 1);
    return result;
}

/* Threads. */

struct birth { void *(*run)(void *); void *argument; int entry; };
static pthread_key_t end_key;
static pthread_once_t end_once = PTHREAD_ONCE_INIT;

static void at_end(void *set)
{
    (void)set;
    if (clk && clk_self >= 0)
        clk_thread_end();
}

static void make_key(void)
{
    (void)pthread_key_create(&end_key, at_end);
}

static void *born(void *argument)
{
    struct birth birth = *(struct birth *)argument;
    free(argument);
    (void)pthread_setspecific(end_key, &end_once);
    clk->threads[birth.entry].pthread = (uint64_t)pthread_self();
    clk_thread_start(birth.entry);
    return birth.run(birth.argument);
}

int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes, void *(*run)(void *), void *restrict argument)
{
    REAL(pthread_create);
    if (!clk_on())
        return real(thread, attributes, run, argument);
    (void)pthread_once(&end_once, make_key);
    struct birth *birth = malloc(sizeof *birth);
    int entry = birth ? clk_thread_new(clk_proc) : -1;
    if (entry < 0) {
        free(birth);
        return EAGAIN;
    }
    *birth = (struct birth){run, argument, entry};
    int result = real(thread, attributes, born, birth);
    if (result) {
        clk->threads[entry].state = THREAD_FREE;
        free(birth);
    } else {
        clk->threads[entry].pthread = (uint64_t)*thread;
    }
    return result;
}

int pthread_join(pthread_t thread, void **result)
{
    REAL(pthread_join);
    for (int t = 0; clk_on() && t < CLOCK_THREADS; t++) {
        struct clock_thread *at = &clk->threads[t];
        while (at->state != THREAD_FREE && at->proc == (uint32_t)clk_proc && at->pthread == (uint64_t)thread && t != clk_self)
            (void)clk_block(CLOCK_NEVER, clk_key(at));
    }
    return real(thread, result);
}

pid_t fork(void)
{
    REAL(fork);
    if (!clk_on())
        return real();
    int proc = clk_proc_new(), entry = proc >= 0 ? clk_thread_new(proc) : -1;
    if (entry < 0) {
        errno = EAGAIN;
        return -1;
    }
    pid_t pid = real();
    if (pid == 0)
        clk_proc_start(proc, entry);
    else
        clk_proc_wait(proc, entry, pid > 0);
    return pid;
}

#pragma GCC visibility pop
