/* Threads and processes under the virtual clock. Prints what each did when, in virtual microseconds since the start. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t start;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int ready;

static uint64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void say(const char *what)
{
    printf("%llu %s\n", (unsigned long long)(now() - start), what);
    fflush(stdout);
}

static void nap(long us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

static void *waiter(void *argument)
{
    (void)argument;
    pthread_mutex_lock(&mutex);
    while (!ready)
        pthread_cond_wait(&cond, &mutex);
    nap(5000000); /* with the mutex held */
    pthread_mutex_unlock(&mutex);
    say("waiter");
    return NULL;
}

static void threads(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, waiter, NULL);
    nap(1000000);
    pthread_mutex_lock(&mutex);
    ready = 1;
    pthread_cond_signal(&cond);
    pthread_mutex_unlock(&mutex);
    nap(1000000);
    pthread_mutex_lock(&mutex);
    say("locked");
    pthread_mutex_unlock(&mutex);
    pthread_join(thread, NULL);
    say("joined");
}

static void futexes(void)
{
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec ts = {.tv_sec = 1};
    long late = syscall(SYS_futex, word, FUTEX_WAIT, 0, &ts, NULL, 0);
    say(late == -1 && errno == ETIMEDOUT ? "timed out" : "?");
    pid_t child = fork();
    if (child == 0) {
        nap(2000000);
        *word = 1;
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
        _exit(0);
    }
    while (*word == 0)
        syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
    say("woken by the child");
    waitpid(child, NULL, 0);
    say("child gone");
}

int main(int argc, char **argv)
{
    start = now();
    if (argc > 1 && strcmp(argv[1], "threads") == 0)
        threads();
    else if (argc > 1 && strcmp(argv[1], "futexes") == 0)
        futexes();
    else if (argc > 3) { /* NAME PERIOD_US COUNT: a process among others */
        for (int i = 0; i < atoi(argv[3]); i++) {
            nap(atol(argv[2]));
            say(argv[1]);
        }
    } else {
        while (now() - start < 3600u * 1000000u) { /* an hour of looking at the clock and yielding */
            for (int i = 0; i < 100; i++)
                (void)now();
            nap(100000);
        }
        say("an hour");
    }
    return 0;
}
