"""gpu-monitor: the options and fields that scripts written for Flex:ai's tool expect, from limits and region alone."""

import json
import os
import random
import re
import struct

import pytest

GIB = 1 << 30
MIB = 1 << 20
GPU, SLOT = 4096, 20480
SPLIT = {"memory_context": 0, "memory_module": 0, "memory_data": 0}


def outside(env):
    """The monitor's environment: limits and region, no driver, no limiter."""
    return {k: v for k, v in env.items() if k not in {"LD_PRELOAD", "MICA_SIM_DIR", "LD_LIBRARY_PATH"}}


def monitor(cards, *args, **extra):
    return cards.run(cards.shim.monitor, *args, env=outside(cards.env(managed=True, **extra)))


def seen(cards, *args):
    done = monitor(cards, "-o", "json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["vxpus"]


def test_before_the_first_gpu_call_there_are_zeros(cards):
    cards.limits(memory=GIB, cores=50)
    done = monitor(cards, "-o", "json")
    device = {"device": 0, "core": 0, "core_quota": 50, "memory": 0, "memory_quota": GIB, "processes": []}
    device |= SPLIT | {"throttled": 0, "denials": 0, "uuid": cards.uuid(0)}
    assert json.loads(done.stdout) == {"type": "vGPU", "vxpus": [device]}
    assert monitor(cards).stdout == "vGPU num: 1\nvGPU 0 usage 00%, limit 50%, memory usage      0/1024MB\n"


def test_json_and_table_show_use_and_processes(cards):
    cards.limits(memory=2 * GIB, cores=30)
    program = cards.start(cards.shim.probe, "--alloc", str(GIB), "--spin", "20", env=cards.env(managed=True))
    device = {"core": 0}
    while device["core"] <= 5 and program.poll() is None:  # in the second in which it starts, there may be less
        (device,) = seen(cards, "-p", "1")
    assert (device["memory"], device["memory_quota"], device["core_quota"]) == (GIB, 2 * GIB, 30)
    assert 5 < device["core"] < 45
    (process,) = device["processes"]
    assert (process["pid"], process["memory"], process["program"]) == (program.pid, GIB, "gpu-probe")
    assert device["throttled"] > 0
    table = monitor(cards, "--period", "1").stdout
    assert re.fullmatch(
        rf"vGPU num: 1\nvGPU 0 usage \d\d%, limit 30%, memory usage   1024/2048MB\n"
        rf"pid {program.pid}, core usage \d\d%, memory usage   1024MB\n",
        table,
    )


def test_the_first_fields_and_their_order_are_those_of_the_tool_it_replaces(cards):
    cards.limits()
    program = cards.start(cards.shim.probe, "--alloc", str(MIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    (device,) = seen(cards, "-p", "1")
    assert list(device)[:6] == ["device", "core", "core_quota", "memory", "memory_quota", "processes"]
    assert list(device["processes"][0])[:3] == ["pid", "core", "memory"]


def test_a_killed_process_is_not_shown(cards):
    cards.limits(memory=2 * GIB)
    program = cards.start(cards.shim.probe, "--alloc", str(GIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    program.kill()
    program.wait()
    (device,) = seen(cards, "-p", "1")
    assert (device["memory"], device["processes"]) == (0, [])


def test_refused_allocations_are_counted(cards):
    cards.limits(memory=GIB)
    program = cards.start(cards.shim.probe, "--alloc", str(2 * GIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    (device,) = seen(cards, "-p", "1")
    assert device["denials"] == 1
    assert "denials 1\n" in monitor(cards, "-p", "1", "-d").stdout


def test_every_device_of_a_slice_has_its_own_figures(cards):
    cards.configure(gpus=2)
    cards.limits(memory=GIB, cores=20, gpus=2)
    program = cards.start(cards.shim.probe, "--device", "1", "--alloc", str(MIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    first, second = seen(cards, "-p", "1")
    assert (first["memory"], first["processes"]) == (0, [])
    assert second["memory"] > 0
    assert [process["pid"] for process in second["processes"]] == [program.pid]


def test_watching_goes_on_with_one_answer_a_period(cards):
    cards.limits(memory=GIB)
    env = outside(cards.env(managed=True))
    watcher = cards.start(cards.shim.monitor, "--watch", "-o", "json", env=env)
    answers = ["".join(watcher.stdout.readline() for _ in range(4)) for _ in range(2)]
    assert [json.loads(answer)["vxpus"][0]["memory"] for answer in answers] == [0, 0]
    program = cards.start(cards.shim.probe, "--alloc", str(MIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    while '"memory": 0,' in watcher.stdout.readline():
        pass
    assert watcher.poll() is None


def test_the_share_over_the_period_is_exact_in_virtual_time(cards):
    """Flex:ai's users expect "around 20 %" of a limit of 20 %."""
    cards.configure(launch_ns="0", call_ns="0")
    limits = {"MICA_MEMORY": "1GiB", "MICA_CORES": "20", "XDG_RUNTIME_DIR": str(cards.directory)}
    spin = cards.start(
        cards.shim.probe, "--spin", "12", "--kernel-us", "1000", env=cards.member(0, join=2, limited=True, **limits)
    )
    env = cards.member(1, join=2, **limits)
    watcher = cards.start(cards.shim.monitor, "--watch", "-p", "2", "-d", env=env)
    text = "".join(watcher.stdout.readline() for _ in range(16))
    assert spin.wait(timeout=50) == 0
    shares = [int(share) for share in re.findall(r"vGPU 0 usage (\d+)%", text)]
    assert shares, text
    assert all(18 <= share <= 22 for share in shares[1:3]), text


@pytest.mark.parametrize("args", [("-p", "0"), ("-p", "86401"), ("-p", "x"), ("-o", "xml"), ("-z",), ("extra",)])
def test_a_wrong_option_shows_the_usage(cards, args):
    cards.limits()
    done = monitor(cards, *args)
    assert done.returncode == 2
    assert "usage: gpu-monitor" in done.stderr


def test_help(cards):
    done = monitor(cards, "-h")
    assert done.returncode == 0
    assert "--period" in done.stdout


def test_without_limits_it_says_why(cards):
    done = monitor(cards)
    assert done.returncode == 1
    assert "limits" in done.stderr


@pytest.mark.parametrize("size", [0, 100, 335872, 1069055, 1069057])
def test_a_region_of_another_size_is_refused_in_words(cards, size):
    cards.limits()
    cards.region().write_bytes(bytes(size))
    done = monitor(cards, "-p", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong size" in done.stderr


def written(cards):
    """A region that a program has written, and the program, which holds a slot."""
    cards.limits(memory=GIB, cores=30)
    program = cards.start(cards.shim.probe, "--alloc", str(MIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    return cards.region()


def scribble(region, at, data):
    with region.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_region_of_another_version_is_refused_in_words(cards):
    scribble(written(cards), 8, struct.pack("<I", 1))
    done = monitor(cards, "-p", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "version" in done.stderr


def test_a_hostile_name_cannot_leave_its_string_nor_command_the_terminal(cards):
    scribble(written(cards), SLOT + 24, b'","x":"\x1b[2J\\\xff\n!')
    (process,) = seen(cards, "-p", "1")[0]["processes"]
    assert process["program"] == "?,?x?:??[2J???!"
    table = monitor(cards, "-p", "1", "-d").stdout
    assert "\x1b" not in table


def test_figures_that_cannot_be_are_bounded(cards):
    region = written(cards)
    most = struct.pack("<Q", (1 << 64) - 1)
    for offset in (64, 192, 320, 448):
        scribble(region, SLOT + offset, most)
    for offset in (64, 80, 88, 192, 208):
        scribble(region, GPU + offset, most)
    (device,) = seen(cards, "-p", "1")
    assert 0 <= device["core"] <= 100
    assert 0 <= device["throttled"] <= 100
    assert device["memory"] == (1 << 48) - 1
    assert device["memory_context"] + device["memory_module"] + device["memory_data"] == device["memory"]


def test_random_scribble_is_always_answered(cards):
    region = written(cards)
    original = region.read_bytes()
    chance = random.Random(1)
    for _ in range(25):
        hostile = bytearray(original)
        for _ in range(chance.randrange(1, 200)):
            at = chance.choice([chance.randrange(48, GPU + 1024), chance.randrange(SLOT, SLOT + 4096)])
            hostile[at] = chance.randrange(256)
        scribble(region, 0, hostile)
        env = outside(cards.env(managed=True, MICA_SIM_CLOCK=str(cards.directory / "clock")))
        (cards.directory / "clock").unlink(missing_ok=True)
        clock = str(cards.shim.root / "sim" / "libsimclock.so")
        done = cards.run(cards.shim.monitor, "-o", "json", "-p", "1", env=env | {"LD_PRELOAD": clock, "MICA_SIM_CLOCK_JOIN": "1"})
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["vxpus"]) == 1


def test_a_region_that_shrinks_under_it_is_an_error_and_no_crash(cards):
    region = written(cards)
    watcher = cards.start(cards.shim.monitor, "--watch", "-o", "json", env=outside(cards.env(managed=True)))
    watcher.stdout.readline()
    os.truncate(region, 5000)
    watcher.communicate(timeout=50)
    assert watcher.returncode == 1


def test_it_opens_no_driver_and_writes_nothing(cards, tmp_path):
    written(cards)
    before = cards.region().read_bytes()
    monitor(cards, "-p", "1")
    assert cards.region().read_bytes() == before
    assert "libcuda" not in cards.shim.monitor.read_bytes().decode("latin-1")
