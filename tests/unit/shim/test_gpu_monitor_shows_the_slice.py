"""gpu-monitor: the options and fields that scripts written for Flex:ai's tool expect, from limits and region alone."""

import json
import re

import pytest

GIB = 1 << 30


def monitor(cards, *args, **extra):
    env = cards.env(managed=True, **extra)
    env = {k: v for k, v in env.items() if k not in {"LD_PRELOAD", "MICA_SIM_DIR", "LD_LIBRARY_PATH"}}
    return cards.run(cards.shim.monitor, *args, env=env)


def test_before_the_first_gpu_call_there_are_zeros(cards):
    cards.limits(memory=GIB, cores=50)
    done = monitor(cards, "-o", "json")
    device = {"device": 0, "core": 0, "core_quota": 50, "memory": 0, "memory_quota": GIB, "processes": []}
    assert json.loads(done.stdout) == {"type": "vGPU", "vxpus": [device]}


def test_json_and_table_show_use_and_processes(cards):
    cards.limits(memory=2 * GIB, cores=30)
    program = cards.start(cards.shim.probe, "--alloc", str(GIB), "--spin", "20", env=cards.env(managed=True))
    seen = {"processes": []}
    while not seen["processes"]:
        (seen,) = json.loads(monitor(cards, "-p", "1", "-o", "json").stdout)["vxpus"]
    assert (seen["memory"], seen["memory_quota"], seen["core_quota"]) == (GIB, 2 * GIB, 30)
    assert 5 < seen["core"] < 45
    assert seen["processes"] == [{"pid": program.pid, "core": seen["processes"][0]["core"], "memory": GIB}]
    table = monitor(cards, "--period", "1").stdout
    assert re.fullmatch(
        rf"vGPU num: 1\nvGPU 0 usage \d+%, limit 30%, memory usage +1024/2048MB\n"
        rf"pid {program.pid}, core usage \d+%, memory usage +1024MB\n",
        table,
    )


def test_a_killed_process_is_not_shown(cards):
    cards.limits(memory=2 * GIB)
    program = cards.start(cards.shim.probe, "--alloc", str(GIB), "--hold", "60", env=cards.env(managed=True))
    program.stdout.readline()
    program.kill()
    program.wait()
    (seen,) = json.loads(monitor(cards, "-p", "1", "-o", "json").stdout)["vxpus"]
    assert (seen["memory"], seen["processes"]) == (0, [])


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
