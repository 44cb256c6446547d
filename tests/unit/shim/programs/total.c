/* Processes that attach, charge and are killed at any moment, others that reap without end, and one that holds a fixed amount and watches
 * the total: it may never be less than what the living hold. usage: total SECONDS; prints the looks, and those that were too low. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../../../../vgpu_shim/src/ledger.c"
#include "../../../../vgpu_shim/src/region.c"
#include "../../../../vgpu_shim/src/work.c"

bool mica_limits_managed(void) { return false; }

static const uint64_t HELD = UINT64_C(1) << 30;

static void die_with_parent(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
}

static void attach(void)
{
    char error[300];
    if (mica_ledger_attach(MICA_SOURCE_ENV, error, sizeof error))
        return;
    fprintf(stderr, "%s\n", error);
    _exit(9);
}

static void reap_for_ever(void)
{
    attach();
    for (;;)
        mica_ledger_reap();
}

/* One life: charges and releases until its parent kills it. */
static void live(void)
{
    attach();
    for (;;) {
        if (mica_ledger_charge(0, HELD, 100 * HELD, true))
            mica_ledger_release(0, HELD);
        mica_ledger_charge(0, HELD / 2, 100 * HELD, true);
    }
}

static void kill_lives(unsigned seed)
{
    pid_t self = getpid();
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            die_with_parent(self);
            live();
        }
        usleep(500 + (useconds_t)rand_r(&seed) % 3000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

int main(int argc, char **argv)
{
    enum { REAPERS = 2, KILLERS = 2 };
    pid_t children[REAPERS + KILLERS], self = getpid();
    for (int i = 0; i < REAPERS + KILLERS; i++)
        if ((children[i] = fork()) == 0) {
            die_with_parent(self);
            if (i < REAPERS)
                reap_for_ever();
            kill_lives((unsigned)i);
        }
    attach();
    mica_region->gpus[0].uuid[0] = 'G';
    if (!mica_ledger_charge(0, HELD, MICA_USED_MASK, true)) /* whatever the others hold */
        return 1;
    uint64_t end = mica_now() + (uint64_t)atoi(argc > 1 ? argv[1] : "1") * 1000000000u, looks = 0, low = 0;
    for (; mica_now() < end; looks++)
        low += mica_ledger_used(0) < HELD;
    for (int i = 0; i < REAPERS + KILLERS; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    /* grandchildren die with their parents, soon */
    for (int i = 0; i < 200 && mica_ledger_used(0) != HELD; i++) {
        usleep(10000);
        mica_ledger_reap();
    }
    printf("%llu %llu %lld\n", (unsigned long long)looks, (unsigned long long)low, (long long)(mica_ledger_used(0) - HELD));
    return 0;
}
