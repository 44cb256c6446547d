"""Leases: the arbiter, the node page, and the limiter between them. Shares are measured in virtual time by the benchmark's rig.

Bands are wider than the benchmark's goals: what is tested here is behaviour, figures are the benchmark's.
"""

import json
import os
import signal
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from benchmarks.limiter.rig import Change, Fault, Scene, Tenant, play

SHIM = Path(__file__).parents[3] / "vgpu_shim"
HEARTBEAT, CONTAINERS, ENTRY = 40, 4096, 1088
PAGE_BYTES, REGION_BYTES = 561152, 1069056
OPEN = 2**64 - 1
BUSY = Tenant("neighbour", "--kernel-us 5000 --depth 0")


@pytest.fixture
def played(options):
    return lambda *tenants, **scene: play(Scene(tenants, **({"seconds": 5} | scene)), options)


@pytest.mark.parametrize("args", ["--kernel-us 5000", "--kernel-us 200 --depth 64", "--kernel-us 1000 --graph 6 --depth 4"])
def test_a_capped_container_has_its_share_beside_a_busy_neighbour(played, args):
    outcome = played(Tenant("capped", args, cores=30), BUSY)
    assert outcome.mean("capped", skip=1) == pytest.approx(30, abs=3)
    assert outcome.mean("neighbour", skip=1) == pytest.approx(70, abs=3)


def test_uncapped_containers_share_by_weight(played):
    tenants = [Tenant(name, "--kernel-us 1000 --depth 0", weight=weight) for name, weight in (("a", 300), ("b", 100))]
    outcome = played(*tenants)
    assert outcome.mean("a", skip=1) == pytest.approx(75, abs=3)
    assert outcome.mean("b", skip=1) == pytest.approx(25, abs=3)


@pytest.mark.parametrize(("policy", "low", "high"), [("strict", 17, 22), ("conserving", 90, 101)])
def test_only_a_conserving_container_uses_what_others_leave(played, policy, low, high):
    idle = Tenant("idle", "--kernel-us 1000 --depth 1 --pause-us 100000", cores=50)
    outcome = played(Tenant("a", "--kernel-us 1000 --depth 0", cores=20, policy=policy), idle)
    assert low < outcome.mean("a", skip=1) < high


@pytest.mark.parametrize(("policy", "low", "high"), [("strict", 18, 22), ("conserving", 95, 101)])
def test_with_nobody_else_on_the_card_only_a_conserving_container_has_all_of_it(played, policy, low, high):
    outcome = played(Tenant("a", "--kernel-us 1000 --depth 0", cores=20, policy=policy))
    assert low < outcome.mean("a", skip=1) < high


def test_what_a_conserving_container_was_left_is_no_debt_to_a_newcomer_or_without_the_arbiter(played):
    alone = Tenant("alone", "--kernel-us 1000 --depth 0", cores=20, policy="conserving")
    outcome = played(alone, faults=(Fault(3.0, "kill"),), seconds=8)
    assert outcome.windows("alone")[1] > 95
    assert outcome.windows("alone")[5] == pytest.approx(20, abs=3)
    newcomer = Tenant("newcomer", "--kernel-us 1000 --depth 0", cores=80, start_s=3)
    outcome = played(alone, newcomer, seconds=8)
    assert outcome.windows("alone")[1] > 95
    assert outcome.windows("alone")[5] == pytest.approx(20, abs=3)
    assert outcome.windows("newcomer")[5] == pytest.approx(80, abs=3)


def test_a_high_class_comes_first_and_a_low_one_keeps_its_floor(played):
    tenants = [Tenant(name, "--kernel-us 2000 --depth 0", priority=name) for name in ("high", "low")]
    outcome = played(*tenants, seconds=8)
    assert 1.5 < outcome.mean("low", skip=1) < 4
    assert outcome.mean("high", skip=1) > 94


def test_a_low_class_stops_soon_after_a_high_one_starts(played):
    low = Tenant("low", "--kernel-us 20000 --depth 0", priority="low")
    high = Tenant("high", "--kernel-us 2000 --depth 0", priority="high", start_s=2)
    outcome = played(low, high, seconds=3, every_ms=100)
    assert outcome.busy_s["low"][-1] - outcome.busy_s["low"][21] < 0.05  # what it had from 200 ms after the start on


def test_new_limits_take_hold_while_it_runs(played):
    changes = (Change(2.0, "capped", 60),)
    outcome = played(Tenant("capped", "--kernel-us 1000", cores=20), BUSY, changes=changes)
    windows = outcome.windows("capped")
    assert windows[1] == pytest.approx(20, abs=5)
    assert windows[4] == pytest.approx(60, abs=5)


def test_when_the_arbiter_is_killed_caps_hold_and_a_new_one_takes_over(played):
    tenants = (Tenant("a", "--kernel-us 5000", cores=30), Tenant("b", "--kernel-us 5000", cores=70))
    faults = (Fault(2.0, "kill"), Fault(5.0, "restart"))
    outcome = played(*tenants, seconds=8, faults=faults)
    a, b = outcome.windows("a"), outcome.windows("b")
    assert a[1] == pytest.approx(30, abs=4) and b[1] == pytest.approx(70, abs=4)
    assert 10 < a[3] < 33 and 40 < b[3] < 73  # each by its own balance: no more than its cap, less beside the other
    assert a[7] == pytest.approx(30, abs=4) and b[7] == pytest.approx(70, abs=4)


def test_a_container_that_is_killed_with_work_under_way_does_not_hold_up_the_others(played):
    tenants = (Tenant("a", "--kernel-us 5000 --depth 0"), Tenant("b", "--kernel-us 5000 --depth 0"))
    outcome = played(*tenants, faults=(Fault(2.0, "kill a"),))
    assert outcome.windows("b")[1] == pytest.approx(50, abs=5)
    assert outcome.windows("b")[4] > 95


def test_answers_make_sense_whatever_containers_write(cards):
    flags = ["-D_GNU_SOURCE", "-I", str(cards.shim.root / "gen"), "-fsanitize=undefined", "-fsanitize-trap=undefined"]
    program = cards.shim.compile("turns.c", *flags)
    for seed in range(4):
        said = cards.run(program, "100000", str(seed), env=cards.env()).stdout.split()
        assert said[0] == "ok" and int(said[1]) > 100


@pytest.mark.parametrize(("how", "share"), [("says", 90), ("blinks", 90), ("silent", 90), ("asks", 45), ("rests", 85)])
def test_a_page_that_lies_about_its_work_does_not_hold_the_card(cards, how, share):
    """It is due half of the card if it works there; who never launches what it says gets next to nothing of it."""
    program = cards.shim.compile("forged.c", "-D_GNU_SOURCE", "-I", str(cards.shim.root / "gen"))
    could, longest_ms = json.loads(cards.run(program, how, env=cards.env()).stdout)
    assert could > share
    assert longest_ms < 1100


def arbiter(cards, slices):
    page = cards.directory / "node" / "page"
    process = cards.start(cards.shim.arbiter, "--slices", slices, "--page", page, env=cards.env())
    deadline = time.monotonic() + 10
    while cards.run(cards.shim.arbiter, "--check", page, env=cards.env()).returncode and time.monotonic() < deadline:
        assert process.poll() is None
    return process, page


def test_hostile_regions_do_not_disturb_the_arbiter(cards):
    slices = cards.directory / "slices"
    good = bytearray(REGION_BYTES)
    struct.pack_into("<8sIIIIIIQQ", good, 0, b"MICARGN1", 2, 16, 1024, 1024, 1024, 16, REGION_BYTES, 1)
    limits = cards.limits(memory=1 << 30).read_text()
    regions = {"ones": b"\xff" * REGION_BYTES, "short": b"x", "noise": bytes(good[:4096]) + os.urandom(REGION_BYTES - 4096)}
    for name, data in (regions | {"truncated": bytes(good), "good": bytes(good)}).items():
        for part in ("usage", "limits"):
            (slices / name / part).mkdir(parents=True)
        (slices / name / "usage" / "region").write_bytes(data)
        (slices / name / "limits" / "limits").write_text(limits)
    (slices / "pipe" / "usage").mkdir(parents=True)
    os.mkfifo(slices / "pipe" / "usage" / "region")
    (slices / "link" / "usage").mkdir(parents=True)
    (slices / "link" / "usage" / "region").symlink_to("/dev/zero")
    (slices / "good" / "limits" / "limits").write_bytes(os.urandom(9000))
    process, page = arbiter(cards, slices)
    os.truncate(slices / "truncated" / "usage" / "region", 10)
    time.sleep(0.3)
    assert process.poll() is None
    assert cards.run(cards.shim.arbiter, "--check", page, env=cards.env()).returncode == 0


def a_slice(slices, name, *, region, limits=b""):
    for part, file, data in (("usage", "region", region), ("limits", "limits", limits)):
        (slices / name / part).mkdir(parents=True)
        (slices / name / part / file).write_bytes(data)
    return (slices / name / "usage" / "region").stat().st_ino


def started_region(gpus=1):
    head = struct.pack("<8sIIIIIIQQ", b"MICARGN1", 2, 16, 1024, 1024, 1024, gpus, REGION_BYTES, 1)
    return head + bytes(REGION_BYTES - len(head))


def test_a_slice_that_has_not_used_its_card_does_not_start_everybodys_turns_anew(cards):
    slices = cards.directory / "slices"
    a_slice(slices, "idle", region=bytes(REGION_BYTES), limits=cards.limits().read_bytes())
    a_slice(slices, "working", region=started_region(), limits=cards.limits().read_bytes())
    program = cards.shim.compile("scans.c", "-D_GNU_SOURCE")
    assert cards.run(program, slices, env=cards.env()).stdout == "[1, 0]\n"


@pytest.mark.parametrize("limits", [b"", b"version=1\ngpus=x\n"])
def test_whose_limits_the_arbiter_cannot_read_goes_by_its_own_balance(cards, limits):
    slices = cards.directory / "slices"
    inode = a_slice(slices, "odd", region=started_region(), limits=limits)
    _, page = arbiter(cards, slices)
    deadline = time.monotonic() + 10
    while (place := struct.unpack_from("<Q", page.read_bytes(), CONTAINERS)[0]) != inode and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place == inode
    assert struct.unpack_from("<Q", page.read_bytes(), CONTAINERS + 64) == (OPEN,)


def test_a_card_that_is_named_more_often_than_it_has_seats_does_not_disturb_the_arbiter(cards):
    slices = cards.directory / "slices"
    names = "".join(f"gpu.{n}.uuid={cards.uuid(0)}\ngpu.{n}.memory=1\ngpu.{n}.cores=50\n" for n in range(16))
    for number in range(40):
        a_slice(slices, f"s{number}", region=started_region(16), limits=f"version=1\ngpus=16\n{names}".encode())
    process, page = arbiter(cards, slices)
    time.sleep(0.3)
    assert process.poll() is None
    assert cards.run(cards.shim.arbiter, "--check", page, env=cards.env()).returncode == 0


def test_one_page_has_one_arbiter_and_a_stopped_one_is_noticed(cards):
    (cards.directory / "slices").mkdir()
    process, page = arbiter(cards, cards.directory / "slices")
    second = cards.run(cards.shim.arbiter, "--slices", cards.directory, "--page", page, env=cards.env())
    assert second.returncode == 1 and "another arbiter" in second.stderr
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    assert cards.run(cards.shim.arbiter, "--check", page, env=cards.env()).returncode == 1
    process.send_signal(signal.SIGCONT)


def test_an_arbiter_that_is_asked_to_end_lets_everybody_go(cards):
    (cards.directory / "slices").mkdir()
    process, page = arbiter(cards, cards.directory / "slices")
    process.terminate()
    assert process.wait(timeout=10) == 0
    assert struct.unpack_from("<Q", page.read_bytes(), HEARTBEAT) == (0,)


class Page:
    """A node page written by hand: one container, whose turn it is not; its heart beats until told to stop."""

    def __init__(self, path, region, until=0):
        data = bytearray(PAGE_BYTES)
        found = region.stat()
        struct.pack_into("<8sIIIIQQ", data, 0, b"MICANOD1", 1, 512, ENTRY, 0, PAGE_BYTES, 0)
        struct.pack_into("<QQ", data, CONTAINERS, found.st_ino, found.st_dev)
        struct.pack_into("<Q", data, CONTAINERS + 64, until)
        path.write_bytes(data)
        self._file = path.open("r+b", buffering=0)
        self._stop = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _beat(self):
        os.pwrite(self._file.fileno(), struct.pack("<Q", time.clock_gettime_ns(time.CLOCK_MONOTONIC)), HEARTBEAT)

    def _run(self):
        while not self._stop.wait(0.03):
            self._beat()

    def let_go(self):
        """The arbiter dies; a second time it changes nothing."""
        self._stop.set()
        self._thread.join()
        self._file.close()


LAUNCH = """
init(); module, function, stream = (ctypes.c_void_p() for _ in range(3))
assert cu.cuModuleLoadData(ref(module), b"x") == cu.cuModuleGetFunction(ref(function), module, b"spin") == 0
assert cu.cuStreamCreate(ref(stream), 1) == 0
value = u64(1000); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
def launch(): return cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, None)
"""


@pytest.fixture
def waiting(cards):
    """A container whose turn it never is."""
    cards.limits()
    page = Page(cards.directory / "page", cards.region())
    yield page, cards.env(managed=True, MICA_NODE_FILE=str(cards.directory / "page"))
    page.let_go()


def test_a_launch_waits_for_its_turn_and_goes_by_the_balance_when_the_arbiter_is_gone(cards, waiting):
    page, env = waiting
    program = cards.start_python(LAUNCH + "answer('ready'); answer(launch(), cu.cuCtxSynchronize())", env=env)
    assert json.loads(program.stdout.readline()) == ["ready"]
    time.sleep(0.5)
    os.set_blocking(program.stdout.fileno(), False)
    assert not program.stdout.readline()
    os.set_blocking(program.stdout.fileno(), True)
    page.let_go()
    assert json.loads(program.stdout.readline()) == [0, 0]


def test_a_launch_that_waits_does_not_spin_where_the_page_cannot_be_waited_on(cards, waiting):
    _, env = waiting
    preload = cards.shim.compile("no_shared_futex.c", "-shared", "-fPIC", "-ldl", name="libnofutex.so")
    env["LD_PRELOAD"] = f"{preload}:{env['LD_PRELOAD']}"
    code = f"""
import threading
waits = i32.in_dll(ctypes.CDLL({str(preload)!r}), "futex_waits"); context = ctypes.c_void_p()
cu.cuCtxGetCurrent(ref(context))
threading.Thread(target=lambda: (cu.cuCtxSetCurrent(context), launch()), daemon=True).start()
time.sleep(0.5); answer(waits.value); os._exit(0)
"""
    ((waits,),) = cards.python(LAUNCH + code, env=env)
    assert 0 < waits < 1000


def test_a_page_of_somebody_else_is_believed_only_where_the_agent_mounted_it(cards):
    """In a pod with a user namespace of its own the files of the host's root are nobody's."""
    page = Page(cards.directory / "page", cards.region())
    page.let_go()
    gen = cards.shim.root / "gen"
    program = cards.shim.compile("pages.c", "-D_GNU_SOURCE", f"-I{gen}", f"-I{SHIM / 'src'}", f"-I{SHIM / 'hooks'}")
    answer = cards.run(program, cards.directory / "page", env=cards.env(MICA_NODE_FILE="/tmp/forged")).stdout
    assert json.loads(answer) == [0, 0, 1, "/run/mica/node/page"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dir", "nope"], "nope: No such file or directory"),
        (["--dir", "config"], "config: is not a directory"),
        (["--slices", "config", "--page", "page"], "config: is not a directory"),
        (["--colour", "blue"], "unrecognized option '--colour'"),
        (["--dir", ".", "blue"], "blue: is not an option"),
        (["--slices", "."], "either --slices and --page, or --dir"),
        ([], "either --slices and --page, or --dir"),
    ],
)
def test_an_arbiter_that_cannot_serve_as_asked_says_why(cards, words, says):
    command = [str(cards.shim.arbiter), *words]
    done = subprocess.run(command, cwd=cards.directory, env=cards.env(), capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not (cards.directory / "nope").exists()


def test_an_arbiter_waits_for_the_directory_that_the_node_agent_makes_and_says_so(cards):
    page = cards.directory / "page"
    command = [str(cards.shim.arbiter), "--slices", str(cards.directory / "slices"), "--page", str(page)]
    process = subprocess.Popen(command, env=cards.env(), stderr=subprocess.PIPE, text=True)
    cards.processes.append(process)
    assert "is not there" in process.stderr.readline()
    inode = a_slice(cards.directory / "slices", "late", region=started_region(), limits=cards.limits().read_bytes())
    deadline = time.monotonic() + 10
    while not (page.exists() and struct.unpack_from("<Q", page.read_bytes(), CONTAINERS)[0] == inode):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_captured_waits_for_nobodys_turn(cards, waiting):
    _, env = waiting
    code = """
graph = ctypes.c_void_p()
assert cu.cuStreamBeginCapture_v2(stream, 0) == 0
answer([launch() for _ in range(20)], cu.cuStreamEndCapture(stream, ref(graph)), bool(graph.value))
"""
    assert cards.python(LAUNCH + code, env=env) == [[[0] * 20, 0, True]]


def test_a_forked_child_neither_keeps_the_turn_nor_hangs(cards):
    cards.limits()
    env = cards.env(managed=True)
    code = """
assert launch() == 0
child = os.fork()
if not child:
    os._exit(0 if cu.cuCtxSynchronize() != 0 or launch() != 0 else 7)
answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), launch(), cu.cuCtxSynchronize())
"""
    ((child, *after),) = cards.python(LAUNCH + code, env=env)
    assert child in {0, 7} and after == [0, 0]


def test_a_child_of_a_parent_that_did_not_launch_has_a_helper_of_its_own(cards):
    threads = "len(os.listdir('/proc/self/task'))"
    code = f"""
before = {threads}; child = os.fork()
if child:
    answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), {threads} - before)
else:
    exec({LAUNCH!r}); started = {threads}
    ok = launch() == cu.cuCtxSynchronize() == 0
    os._exit(0 if ok and {threads} == started + 1 else 9)
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_CORES="50")) == [[0, 0]]


@pytest.mark.parametrize("form", ["", "_ptsz"])
def test_what_runs_in_a_threads_own_default_stream_is_measured_to_its_end(cards, form):
    """The helper closes batches that nobody adds to, but its own default stream is not the program's."""
    cards.limits(cores=90)
    code = f"""
value.value = 20_000_000; default = ctypes.c_void_p()
for _ in range(20):
    assert cu.cuLaunchKernel{form}(function, 1, 1, 1, 32, 1, 1, 0, default, params, None) == 0
    while cu.cuStreamQuery{form}(default): time.sleep(0.001)
answer(cu.cuCtxSynchronize())
"""
    assert cards.python(LAUNCH + code, env=cards.env(managed=True)) == [[0]]
    busy, launches = struct.unpack_from("<QQ", cards.region().read_bytes(), 4096 + 192)
    assert launches == 20 and 390_000_000 < busy < 440_000_000


def test_a_program_may_close_the_library_while_the_helper_is_at_work(cards):
    code = """
import _ctypes
value.value = 500_000_000
assert launch() == 0
_ctypes.dlclose(cu._handle); time.sleep(0.1)
answer("alive")
"""
    env = cards.env(MICA_MEMORY="1GiB", MICA_DRIVER=str(cards.shim.driver), TEST_DRIVER=str(cards.shim.library))
    assert cards.python(LAUNCH + code, env=env) == [["alive"]]


def test_the_helper_is_out_of_the_driver_and_nvml_before_they_are_torn_down(cards):
    nvml = cards.shim.compile("slow_nvml.c", "-shared", "-fPIC", name="libslownvml.so")
    code = f"""
slow = ctypes.c_int.in_dll(ctypes.CDLL({str(nvml)!r}), "slow_calls")
value.value = 10_000_000_000
assert launch() == 0
end = time.monotonic() + 9
while not slow.value and time.monotonic() < end: time.sleep(0.001)
answer(slow.value)
"""
    assert cards.python(LAUNCH + code, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_NVML=str(nvml))) == [[1]]


@pytest.mark.parametrize("case", ["absent", "short", "noise", "other version", "directory", "link"])
def test_a_page_that_is_none_is_no_arbiter(cards, case):
    page = cards.directory / "page"
    if case == "directory":
        page.mkdir()
    elif case == "link":
        page.symlink_to(cards.region())
    elif case != "absent":
        head = struct.pack("<8sII", b"MICANOD1", 9, 512) if case == "other version" else b""
        page.write_bytes({"short": b"MICANOD1", "noise": os.urandom(PAGE_BYTES)}.get(case, head.ljust(PAGE_BYTES, b"\0")))
    cards.limits(cores=50)
    env = cards.env(managed=True, MICA_NODE_FILE=str(page))
    assert cards.probe("--spin", "0.2", env=env)["spin_error"] == 0
