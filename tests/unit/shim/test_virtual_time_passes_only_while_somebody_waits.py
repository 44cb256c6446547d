"""Processes under the virtual clock: their time passes only while they wait, and every run of a seed is the same."""

import json
import subprocess

import pytest


def clocked(cards):
    return cards.shim.compile("clocked.c", "-lpthread")


def output(process):
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    return out


def test_an_hour_of_sleeping_and_looking_at_the_clock_is_over_at_once(cards):
    (line,) = cards.run(clocked(cards), env=cards.member()).stdout.splitlines()
    assert 3_600_000_000 <= int(line.split()[0]) < 3_601_000_000


def test_threads_that_wait_for_mutexes_and_conditions_let_time_pass(cards):
    done = cards.run(clocked(cards), "threads", env=cards.member())
    at = {what: int(us) for us, what in (line.split(maxsplit=1) for line in done.stdout.splitlines())}
    assert {what: us // 1000 for what, us in at.items()} == {"waiter": 6000, "locked": 6000, "joined": 6000}


def test_futexes_time_out_and_wake_across_a_fork(cards):
    done = cards.run(clocked(cards), "futexes", env=cards.member())
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [(int(us) // 1000, what) for us, what in lines] == [
        (1000, "timed out"),
        (3000, "woken by the child"),
        (3000, "child gone"),
    ]


def interleaving(cards, run, seed):
    log = cards.directory / f"{run}.log"
    with log.open("a") as out:
        group = [
            subprocess.Popen(
                [str(clocked(cards)), f"p{n}", period, "500"],
                env=cards.member(n, join=3, run=run, MICA_SIM_CLOCK_SEED=str(seed)),
                stdout=out,
            )
            for n, period in enumerate(("1000", "1000", "700"))
        ]
        for process in group:
            assert process.wait(timeout=50) == 0
    return log.read_text()


def test_the_order_of_what_processes_do_is_a_function_of_the_seed(cards):
    first = interleaving(cards, "one", 1)
    assert len(first.splitlines()) == 1500
    assert interleaving(cards, "two", 1) == first
    assert interleaving(cards, "three", 2) != first


def test_a_killed_member_does_not_stop_the_others(cards):
    victim = cards.start(clocked(cards), "victim", "1000", "100000000", env=cards.member(0, join=2))
    other = cards.start(clocked(cards), "other", "1000", "2000", env=cards.member(1, join=2))
    victim.stdout.readline()
    victim.kill()
    assert len(output(other).splitlines()) == 2000


def spinners(cards, run, *commands, seconds=5, limits=(), **extra):
    """Run probes and the truth's reader together; returns what the probes said and the truth at the end of `seconds`."""
    join = len(commands) + 1
    (cards.directory / "state").unlink(missing_ok=True)
    group = []
    for n, command in enumerate(commands):
        more = extra | (limits[n] if limits else {})
        env = cards.member(n, join=join, run=run, limited=bool(limits), **more)
        group.append(cards.start(cards.shim.probe, "--spin", str(seconds), *command.split(), env=env))
    reader = cards.start(cards.shim.sim_state, "1000", str(seconds), env=cards.member(len(commands), join=join, run=run))
    said = [json.loads(output(process)) for process in group]
    pids = [process.pid for process in group]
    card = json.loads(output(reader).splitlines()[-1])["gpus"][0]
    by_pid = {p["pid"]: p for p in card["processes"]}
    return said, [by_pid[pid] for pid in pids], card


def test_two_busy_processes_get_half_of_the_card_each_and_every_run_is_equal(cards):
    cards.configure(noise_permille="50")
    runs = [spinners(cards, f"run{n}", "--kernel-us 1000", "--kernel-us 20000") for n in range(2)]
    for said, truth, card in runs:
        assert [process["spin_error"] for process in said] == [0, 0]
        shares = [process["busy_ns"] / 5e9 for process in truth]
        assert sum(shares) > 0.99
        assert all(0.40 < share < 0.60 for share in shares)
        assert card["now_ns"] >= 1_005_000_000_000
    strip = [[{k: v for k, v in p.items() if k != "pid"} for p in truth] for _, truth, _ in runs]
    assert strip[0] == strip[1]
    assert runs[0][0] == runs[1][0]


@pytest.mark.parametrize("slice_us", [500, 30000])
def test_a_lone_process_has_the_whole_card_whatever_the_slice(cards, slice_us):
    cards.configure(slice_us=str(slice_us))
    _, (truth,), _ = spinners(cards, "run", "--kernel-us 200 --depth 0")
    assert truth["busy_ns"] / 5e9 > 0.99


def test_the_limiter_takes_part_unchanged(cards):
    """Its cap holds to the point when it is alone, in virtual seconds that take real milliseconds."""
    limits = [{"MICA_MEMORY": "4GiB", "MICA_CORES": "30", "MICA_SLICE": "one"}]
    _, (truth,), _ = spinners(cards, "run", "--kernel-us 5000", seconds=10, limits=limits)
    assert abs(truth["busy_ns"] / 10e9 - 0.30) < 0.02


def test_a_launch_costs_its_caller_time_and_a_full_queue_blocks_it(cards):
    cards.configure(launch_ns="4000", call_ns="0")
    code = """
init(); module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(1_000_000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
clock = lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
def launches(count):
    start = clock()
    for _ in range(count): assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, params, None) == 0
    return round((clock() - start) * 1e6)
answer(launches(1000), launches(100))
"""
    ((free, full),) = cards.python(code, env=cards.member())
    assert 4000 <= free < 4200
    assert 70_000 < full < 100_000


def test_a_process_in_real_time_is_refused_cards_that_run_in_virtual_time(cards):
    spinners(cards, "run", "--kernel-us 1000", seconds=1)
    refused = cards.run(cards.shim.probe, env=cards.env())
    assert refused.returncode == 1
    assert "virtual time" in refused.stderr
    assert cards.truth()["now_ns"] >= 1_001_000_000_000
