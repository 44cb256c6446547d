"""Limits: where they come from, that they change while a program runs, and that without them there is no GPU."""

import json
import os
import struct
import subprocess
import time

import pytest

GIB = 1 << 30
MIB = 1 << 20


def refused(cards, env):
    """Return what a program under broken limits sees, after checking that it survived and was told once."""
    done = cards.run(cards.shim.probe, "--fill", env=env)
    assert done.returncode == 1
    assert done.stderr.count("mica[") == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["failed"], found["error"]) == ("cuInit", 800)
    return done.stderr


def test_the_file_gives_each_gpu_its_own_limit_by_uuid(cards):
    cards.configure(gpus=2)
    path = cards.limits(memory=GIB, gpus=2)
    text = path.read_text().replace("gpu.0.uuid=" + cards.uuid(0), "gpu.0.uuid=" + cards.uuid(1), 1)
    head, tail = text.rsplit("gpu.1.uuid=" + cards.uuid(1), 1)
    path.write_text(head + "gpu.1.uuid=" + cards.uuid(0) + tail.replace(f"gpu.1.memory={GIB}", f"gpu.1.memory={3 * GIB}"))
    assert [cards.probe("--device", d, "--fill", env=cards.env(managed=True))["accepted"] for d in ("0", "1")] == [3 * GIB, GIB]


def test_a_gpu_that_is_not_in_the_limits_cannot_be_used(cards):
    cards.configure(gpus=2)
    cards.limits(memory=GIB, gpus=1)
    found = cards.probe("--device", "1", "--fill", env=cards.env(managed=True))
    assert (found["total"], found["accepted"], found["error"]) == (0, 0, 2)


def test_the_environment_counts_for_nothing_where_there_is_a_file(cards):
    cards.limits(memory=GIB)
    env = cards.env(managed=True, MICA_MEMORY="70GiB", MICA_CORES="100", MICA_DRIVER="/nowhere")
    assert cards.probe("--fill", env=env)["accepted"] == GIB


BROKEN = {
    "empty": ("", "missing"),
    "cut short": ("version=1\ngeneration=1\n", "cut short"),
    "another version": ("version=2\ngpus=0\n", "version"),
    "no memory": ("version=1\ngpus=1\ngpu.0.uuid=GPU-1\ngpu.0.cores=1\n", "gpu.0 needs"),
    "memory of no bytes": ("version=1\ngpus=1\ngpu.0.uuid=GPU-1\ngpu.0.memory=0\ngpu.0.cores=1\n", "gpu.0.memory"),
    "negative memory": ("version=1\ngpus=1\ngpu.0.uuid=GPU-1\ngpu.0.memory=-1\ngpu.0.cores=1\n", "gpu.0.memory"),
    "too many cores": ("version=1\ngpus=1\ngpu.0.uuid=GPU-1\ngpu.0.memory=1\ngpu.0.cores=101\n", "gpu.0.cores"),
    "seventeen GPUs": ("version=1\ngpus=17\n", "gpus"),
    "a GPU beyond the count": ("version=1\ngpus=0\ngpu.3.weight=5\n", "gpu.3 is beyond gpus=0"),
    "a GPU's number with a sign": ("version=1\ngpus=0\ngpu.+0.weight=5\n", "gpu.+0.weight"),
    "a mode nobody knows": ("version=1\nmode=off\ngpus=0\n", "mode"),
    "no weight": ("version=1\ngpus=1\ngpu.0.weight=0\n", "gpu.0.weight"),
    "a weight beyond reason": ("version=1\ngpus=1\ngpu.0.weight=10001\n", "gpu.0.weight"),
    "a policy nobody knows": ("version=1\ngpus=1\ngpu.0.policy=kind\n", "gpu.0.policy"),
    "a priority nobody knows": ("version=1\ngpus=1\ngpu.0.priority=7\n", "gpu.0.priority"),
    "neither true nor false": ("version=1\noversubscribe=1\ngpus=0\n", "oversubscribe"),
    "no key": ("hello\n", "line 1"),
    "binary": ("\0\1\2" * 100, "not a limits file"),
    "endless": ("x" * 100000, "not a limits file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_no_gpu_and_a_clear_line(cards, case):
    text, words = BROKEN[case]
    (cards.directory / "limits").write_text(text)
    assert words in refused(cards, cards.env(managed=True))


def test_no_file_is_no_gpu(cards):
    assert "cannot be read" in refused(cards, cards.env(managed=True))


def test_no_limits_at_all_says_what_to_set(cards):
    assert "set MICA_MEMORY" in refused(cards, cards.env(limited=True))


@pytest.mark.parametrize("value", ["lots", "-1", "0", "4GB", "4 GiB", "99999999999999999999", "300TiB"])
def test_a_bad_amount_in_the_environment_is_refused(cards, value):
    assert "MICA_MEMORY" in refused(cards, cards.env(limited=True, MICA_MEMORY=value))


@pytest.mark.parametrize(
    ("value", "size"), [("1GiB", GIB), ("1G", GIB), ("512MiB", GIB // 2), ("2097152", 2 * MIB), ("2048K", 2 * MIB)]
)
def test_amounts_in_the_environment(cards, value, size):
    assert cards.probe(env=cards.env(limited=True, MICA_MEMORY=value))["total"] == size


def test_an_unknown_key_is_ignored_and_told_once(cards):
    path = cards.limits()
    path.write_text(path.read_text() + "colour=blue\n")
    done = cards.run(cards.shim.probe, env=cards.env(managed=True))
    assert done.returncode == 0
    assert done.stderr.count("unknown key colour is ignored") == 1


def test_report_mode_lets_through_and_says_so(cards):
    cards.limits(memory=GIB, cores=1, mode="report")
    done = cards.run(cards.shim.probe, "--alloc", str(2 * GIB), "--spin", "2", env=cards.env(managed=True))
    found = json.loads(done.stdout)
    assert found["alloc_error"] == 0
    assert found["busy_share"] > 0.5
    assert "passes the limit" in done.stderr


def test_report_mode_counts_everything_and_refuses_and_holds_back_nothing(cards):
    cards.limits(memory=GIB, cores=1, mode="report")
    code = """
assert init() == 0
module, function = ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any"); cu.cuModuleGetFunction(ref(function), module, b"spin")
value = u64(1_000_000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
errors = {alloc(GIB)[0] for _ in range(3)}
for _ in range(100):
    errors.add(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, params, None))
answer(sorted(errors), cu.cuCtxSynchronize(), info()[2])
"""
    assert cards.python(code, env=cards.env(managed=True)) == [[[0], 0, 80 * GIB]]
    (used, denials), (launches, throttled) = (
        struct.unpack_from("<QQ", cards.region().read_bytes(), 4096 + offset) for offset in (64, 200)
    )
    assert (denials, launches, throttled) == (0, 100, 0)
    assert used % (1 << 48) >= 3 * GIB


def test_report_mode_lets_a_gpu_be_used_that_is_not_in_the_limits(cards):
    cards.configure(gpus=2)
    cards.limits(memory=GIB, cores=1, gpus=1, mode="report")
    for family in ("linear", "async", "vmm"):
        args = ("--device", "1", "--family", family, "--alloc", str(2 * GIB), "--spin", "0.2")
        found = cards.probe(*args, env=cards.env(managed=True))
        assert (found["alloc_error"], found["spin_error"]) == (0, 0)


def test_a_line_that_nobody_reads_does_not_end_the_program(cards):
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(cards.shim.probe)]
    done = subprocess.run(command, env=cards.env(limited=True), stdout=subprocess.PIPE, stderr=writer, timeout=20, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == 800


ASK = "init(); answer()\nfor line in sys.stdin: answer(alloc(int(line))[0], *info()[1:])"


def ask(program, size):
    program.stdin.write(f"{size}\n")
    program.stdin.flush()
    return json.loads(program.stdout.readline())


def eventually(program, size, wanted):
    deadline = time.monotonic() + 1
    while (seen := ask(program, size)) != wanted and time.monotonic() < deadline:
        pass
    return seen


@pytest.mark.parametrize("how", ["rename", "in place"])
def test_a_running_program_follows_its_limits_up_and_down_within_a_second(cards, how):
    path = cards.limits(memory=GIB)
    program = cards.start_python(ASK, env=cards.env(managed=True))
    program.stdout.readline()

    def change(memory, generation):
        text = path.read_text()
        cards.limits(memory=memory, generation=generation)
        if how == "in place":
            new = path.read_text()
            path.unlink()
            path.write_text(text)
            path.write_text(new)

    assert ask(program, GIB) == [0, 0, GIB]
    assert ask(program, 2 * MIB)[0] == 2
    change(3 * GIB, 2)
    assert eventually(program, 0, [1, 2 * GIB, 3 * GIB]) == [1, 2 * GIB, 3 * GIB]
    assert ask(program, GIB) == [0, GIB, 3 * GIB]
    change(GIB, 3)  # below what it holds: nothing more, nothing taken away
    assert eventually(program, 0, [1, 0, GIB]) == [1, 0, GIB]
    assert ask(program, 2 * MIB)[0] == 2


def test_a_file_that_breaks_or_goes_while_a_program_runs_changes_nothing(cards):
    path = cards.limits(memory=GIB, generation=5)
    program = cards.start_python(ASK, env=cards.env(managed=True))
    program.stdout.readline()
    for step in (lambda: path.write_text("garbage"), path.unlink, lambda: cards.limits(memory=9 * GIB, generation=4)):
        step()
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            assert ask(program, 0) == [1, GIB, GIB]


def test_a_missing_region_is_no_gpu(cards):
    cards.limits()
    env = cards.env(managed=True)
    (cards.directory / "region").unlink()
    assert "usage region" in refused(cards, env)


@pytest.mark.parametrize("size", [0, 1, 4096, 335871, 335873])
def test_a_region_of_the_wrong_size_is_no_gpu(cards, size):
    cards.limits()
    env = cards.env(managed=True)
    (cards.directory / "region").write_bytes(bytes(size))
    assert "bytes, not 1069056" in refused(cards, env)


def test_a_hostile_region_neither_crashes_nor_raises_the_limit(cards):
    cards.limits(memory=64 * MIB, cores=50)
    env = cards.env(managed=True)
    region = cards.directory / "region"
    cards.probe(env=env)
    good = region.read_bytes()
    for name, data in {
        "all ones": good[:4096] + b"\xff" * (len(good) - 4096),
        "huge use": good[:4160] + b"\xff\xff\xff\xff\xff\xff\x00\x00" + good[4168:],
        "other magic": b"GARBAGE!" + good[8:],
        "other slots": good[:16] + b"\xff\xff\xff\xff" + good[20:],
        "debt": good[:4224] + b"\x00" * 7 + b"\x80" + good[4232:],
        "far future": good[:4232] + b"\xff" * 7 + b"\x7f" + good[4240:],
    }.items():
        region.write_bytes(data)
        done = cards.run(cards.shim.probe, "--fill", "--spin", "0.2", env=env)
        assert done.returncode in {0, 1}, (name, done.returncode, done.stderr)
        assert json.loads(done.stdout).get("accepted", 0) <= 64 * MIB, name


def test_a_standalone_region_that_is_damaged_is_made_anew(cards):
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    cards.probe(env=env)
    (region,) = cards.directory.glob("mica-*.region")
    for data in (b"", b"short", b"\xff" * 1069056):
        region.write_bytes(data)
        assert cards.probe("--fill", env=env)["accepted"] == GIB


def test_the_thousand_and_twenty_fifth_process_is_refused_in_words(cards):
    """Slots are taken by locks, so one process with many descriptors can stand for many."""
    cards.limits()
    env = cards.env(managed=True)
    code = """
import fcntl, struct, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
fd = os.open(os.environ["REGION"], os.O_RDWR)
for slot in range(int(os.environ["SLOTS"])):
    fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 20480 + 1024 * slot, 1, 0))
answer("locked"); time.sleep(60)
"""
    plain = cards.env(REGION=str(cards.directory / "region"))
    for slots, works in (("1023", True), ("1024", False)):
        locker = cards.start_python(code, env=plain | {"SLOTS": slots})
        assert locker.stdout.readline().strip() == '["locked"]'
        if works:
            assert cards.probe("--fill", env=env)["accepted"] == GIB
        else:
            assert "1024 processes" in refused(cards, env)
        locker.kill()
        locker.wait()


def test_a_machine_without_the_locks_that_slots_need_is_named_as_such(cards):
    cards.limits()
    preload = cards.shim.compile("no_ofd_locks.c", "-shared", "-fPIC", name="libnoofd.so")
    env = cards.env(managed=True)
    env["LD_PRELOAD"] += f":{preload}"
    words = refused(cards, env)
    assert "open file description locks" in words and "errno 22" in words


@pytest.mark.parametrize(("device", "error"), [(15, 0), (16, 2), (17, 101)])
def test_a_card_beyond_the_sixteenth_gives_no_memory(cards, device, error):
    driver = cards.shim.compile("seventeen.c", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", name="seventeen.so")
    code = f"""
class Prop(ctypes.Structure):
    _fields_ = [("type", i32), ("handles", i32), ("where", i32), ("id", i32), ("rest", ctypes.c_ubyte * 16)]
assert cu.cuInit(0) == 0
answer(cu.cuMemCreate(ref(u64()), ctypes.c_size_t(MIB), ref(Prop(1, 0, 1, {device})), u64()))
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_DRIVER=str(driver))) == [[error]]
