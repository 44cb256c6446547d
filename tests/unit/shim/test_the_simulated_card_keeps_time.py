"""The simulated card's compute under virtual time: slices, overlap, events, noise, graphs; each figure is what the model says."""

import json

import pytest

START = """
assert init() == 0
module, spin_, bimodal_ = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
cu.cuModuleLoadData(ref(module), b"any")
cu.cuModuleGetFunction(ref(spin_), module, b"spin"); cu.cuModuleGetFunction(ref(bimodal_), module, b"bimodal")
def stream(flags=1):
    made = ctypes.c_void_p(); assert cu.cuStreamCreate(ref(made), flags) == 0; return made
def event():
    made = ctypes.c_void_p(); assert cu.cuEventCreate(ref(made), 0) == 0; return made
def spin(ns, on=None):
    value = u64(int(ns)); params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    assert cu.cuLaunchKernel(spin_, 1, 1, 1, 32, 1, 1, 0, on, params, None) == 0
def bimodal(short, long, permille, on=None):
    values = [u64(short), u64(long), u64(permille)]; params = (ctypes.c_void_p * 3)(*map(ctypes.addressof, values))
    assert cu.cuLaunchKernel(bimodal_, 1, 1, 1, 32, 1, 1, 0, on, params, None) == 0
def record(on=None):
    made = event(); assert cu.cuEventRecord(made, on) == 0; return made
def us(a, b):
    out = ctypes.c_float(); error = cu.cuEventElapsedTime(ref(out), a, b); assert error == 0; return round(out.value * 1000, 1)
def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
wait = cu.cuCtxSynchronize
"""

GRAPH = (
    START
    + """
class Kernel(ctypes.Structure):
    _fields_ = [("function", ctypes.c_void_p)] + [(f"n{i}", ctypes.c_uint) for i in range(7)] + [
                ("params", ctypes.c_void_p), ("extra", ctypes.c_void_p)]
keep = []
graph = ctypes.c_void_p(); assert cu.cuGraphCreate(ref(graph), 0) == 0
def kernel(ns):
    value = u64(int(ns)); params = (ctypes.c_void_p * 1)(ctypes.addressof(value)); keep.extend([value, params])
    return Kernel(spin_, 1, 1, 1, 32, 1, 1, 0, ctypes.addressof(params), None)
def node(ns, *after, into=None):
    made = ctypes.c_void_p(); before = (ctypes.c_void_p * max(1, len(after)))(*after)
    error = cu.cuGraphAddKernelNode_v2(ref(made), into or graph, before, ctypes.c_size_t(len(after)), ref(kernel(ns)))
    assert error == 0; return made
def ready():
    made = ctypes.c_void_p(); error = cu.cuGraphInstantiateWithFlags(ref(made), graph, u64(0)); assert error == 0; return made
def launched(exe, on=None):
    a = record(on); assert cu.cuGraphLaunch(exe, on) == 0; b = record(on); wait(); return us(a, b)
"""
)


@pytest.fixture
def run(cards):
    """Run a program alone in virtual time on a card with these parameters."""

    def runs(code, **config):
        cards.configure(**({"launch_ns": "0", "call_ns": "0"} | config))
        (cards.directory / "state").unlink(missing_ok=True)
        (cards.directory / "clock").unlink(missing_ok=True)
        return cards.python(code, env=cards.member())

    return runs


def test_kernels_of_one_stream_follow_each_other_to_the_nanosecond(run):
    code = START + "a = record(); spin(1_234_567); b = record(); spin(5_000); c = record(); wait(); answer(us(a, b), us(b, c))"
    assert run(code) == [[1234.5, 5.0]]  # at 1,234,567 and 1,239,567 ns, seen to half a microsecond


def test_kernels_of_different_streams_overlap(run):
    code = START + "s, t = stream(), stream(); a = record(s); spin(3e6, s); spin(3e6, t); b = record(s); wait(); answer(us(a, b))"
    assert run(code) == [[3000.0]]


@pytest.mark.parametrize(("inflation", "took"), [("500", 4500.0), ("1000", 6000.0)])
def test_overlap_costs_what_inflation_says(run, inflation, took):
    code = START + "s, t = stream(), stream(); a = record(s); spin(3e6, s); spin(3e6, t); b = record(s); wait(); answer(us(a, b))"
    assert run(code, inflation_permille=inflation) == [[took]]


def test_the_legacy_stream_and_blocking_streams_wait_for_each_other(run):
    code = (
        START
        + """
s = stream(flags=0); a = record(s); spin(2e6, s); spin(3e6); spin(1e6, s); b = record(s); wait(); answer(us(a, b))
t = stream(); a = record(t); spin(2e6, t); spin(3e6); spin(1e6, t); b = record(t); wait(); answer(us(a, b))
"""
    )
    assert run(code) == [[6000.0], [3000.0]]


def test_the_host_sees_an_end_late_by_the_completion_delay(run):
    code = START + "begin = now(); spin(1e6); wait(); answer(now() - begin); e = record(); answer(cu.cuEventQuery(e))"
    (took,), _ = run(code, completion_ns="30000")
    assert 1030 <= took < 1040


def test_noise_varies_durations_by_the_seed_and_within_its_bounds(run):
    code = (
        START
        + """
marks = [record()]
for _ in range(50):
    spin(1e6); marks.append(record())
wait(); answer(*(us(a, b) for a, b in zip(marks, marks[1:])))
"""
    )
    (first,), (again,), (other,) = (run(code, noise_permille="100", seed=seed) for seed in ("1", "1", "2"))
    assert first == again != other
    assert all(899 < each < 1101 for each in first)
    assert max(first) - min(first) > 100


def test_one_function_and_shape_can_be_short_or_long(run):
    code = (
        START
        + """
marks = [record()]
for _ in range(400):
    bimodal(50_000, 20_000_000, 250); marks.append(record())
wait(); answer(*(us(a, b) for a, b in zip(marks, marks[1:])))
"""
    )
    ((*took,),) = run(code)
    assert {round(each) for each in took} == {50, 20000}
    assert 60 < sum(each > 1000 for each in took) < 140


def test_an_event_interval_contains_the_neighbours_slices(cards):
    """Event intervals are wall time: what others do in between cannot be told from one's own work."""
    cards.configure(slice_us="2000", launch_ns="0", call_ns="0")
    code = START + "spin(1e6); wait(); a = record(); spin(20e6); b = record(); wait(); answer(us(a, b))"
    measured = cards.start_python(code, env=cards.member(0, join=2))
    neighbour = cards.start_python(START + "spin(500e6); wait(); answer(0)", env=cards.member(1, join=2))
    (took,) = json.loads(measured.stdout.readline())
    assert 36_000 <= took <= 42_000
    assert json.loads(neighbour.stdout.readline()) == [0]


@pytest.mark.parametrize(("switch_us", "least", "most"), [("0", 0.99, 1.01), ("200", 0.89, 0.93)])
def test_changing_between_processes_costs_what_switching_says(cards, switch_us, least, most):
    cards.configure(slice_us="2000", switch_us=switch_us, launch_ns="0", call_ns="0")
    code = START + "begin = now(); spin(300e6); wait(); answer(now() - begin)"
    pair = [cards.start_python(code, env=cards.member(n, join=2)) for n in range(2)]
    took = max(json.loads(process.stdout.readline())[0] for process in pair)
    assert least < 600_000 / took < most


def test_copies_take_the_time_of_their_bytes_beside_kernels(run):
    code = (
        START
        + """
s, t = stream(), stream(); size = ctypes.c_size_t(25_000_000); _, at = alloc(size.value); host = ctypes.create_string_buffer(1)
a = record(s); cu.cuMemcpyHtoDAsync_v2(u64(at), host, size, s); b = record(s)
spin(1e6, t); c = record(t); wait(); answer(us(a, b), us(a, c))
"""
    )
    assert run(code) == [[1000.0, 1000.0]]  # 25 MB at 25 GB/s; the kernel ran beside it


def test_host_functions_are_operations_of_their_stream(run):
    code = (
        START
        + """
seen = []; call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(now()))
begin = now(); spin(2e6); assert cu.cuLaunchHostFunc(None, call, None) == 0; spin(1e6); wait()
answer(seen[0] - begin, now() - begin)
"""
    )
    ((at, end),) = run(code)
    assert 2000 <= at < 2100
    assert 3000 <= end < 3200


def test_a_graph_takes_as_long_as_its_longest_chain(run):
    code = GRAPH + "a = node(1e6); b = node(2e6, a); c = node(7e6); d = node(5e6, b, c); exe = ready(); answer(launched(exe))"
    assert run(code) == [[12000.0]]


def test_a_graphs_kernels_can_be_changed_after_it_was_made_ready(run):
    code = (
        GRAPH
        + """
a = node(1e6); exe = ready(); first = launched(exe)
assert cu.cuGraphExecKernelNodeSetParams_v2(exe, a, ref(kernel(3e6))) == 0
second = launched(exe)
other = ctypes.c_void_p(); cu.cuGraphCreate(ref(other), 0); node(4e6, into=other); info_ = (u64 * 3)()
error = cu.cuGraphExecUpdate_v2(exe, other, info_); third = launched(exe); node(1e6, into=other)
answer(first, second, error, third, cu.cuGraphExecUpdate_v2(exe, other, info_))
"""
    )
    assert run(code) == [[1000.0, 3000.0, 0, 4000.0, 910]]


def test_a_circle_of_nodes_is_not_made_ready(run):
    code = (
        GRAPH
        + """
a = node(1e6); b = node(1e6, a); from_, to = (ctypes.c_void_p * 1)(b), (ctypes.c_void_p * 1)(a); made = ctypes.c_void_p()
assert cu.cuGraphAddDependencies(graph, from_, to, ctypes.c_size_t(1)) == 0
answer(cu.cuGraphInstantiateWithFlags(ref(made), graph, u64(0)))
"""
    )
    assert run(code) == [[1]]


def test_what_a_captured_stream_does_becomes_a_graph_and_takes_no_time(run):
    code = (
        GRAPH
        + """
s, t, made, exe = stream(), stream(), ctypes.c_void_p(), ctypes.c_void_p(); begin = now()
assert cu.cuStreamBeginCapture_v2(s, 0) == 0
spin(1e6, s); fork = record(s); assert cu.cuStreamWaitEvent(t, fork, 0) == 0
spin(4e6, t); spin(2e6, s); join = record(t); assert cu.cuStreamWaitEvent(s, join, 0) == 0; spin(1e6, s)
status = i32(); cu.cuStreamIsCapturing(t, ref(status)); captured = cu.cuStreamEndCapture(s, ref(made)); took = now() - begin
cu.cuGraphInstantiateWithFlags(ref(exe), made, u64(0)); answer(status.value, captured, took < 1000, launched(exe, s))
"""
    )
    assert run(code) == [[1, 0, True, 6000.0]]


CAPTURE = (
    START + "s, t, made = stream(), stream(), ctypes.c_void_p(); begin = cu.cuStreamBeginCapture_v2(s, 0); assert begin == 0\n"
)
"""Errors: 900 unsupported, 901 invalidated, 903 unmatched, 904 unjoined, 905 isolation, 906 implicit, 907 captured event."""


@pytest.mark.parametrize(
    ("code", "errors"),
    [
        ("answer(cu.cuStreamSynchronize(s), cu.cuStreamEndCapture(s, ref(made)))", [900, 901]),
        ("at = u64(); answer(cu.cuMemAlloc_v2(ref(at), ctypes.c_size_t(1)), cu.cuStreamEndCapture(s, ref(made)))", [900, 901]),
        ("answer(cu.cuStreamEndCapture(t, ref(made)), cu.cuStreamBeginCapture_v2(s, 0))", [401, 401]),
        ("answer(cu.cuStreamBeginCapture_v2(None, 0), cu.cuStreamEndCapture(s, ref(made)))", [900, 0]),
        (
            "e = record(s); cu.cuStreamWaitEvent(t, e, 0); spin(1, t); answer(cu.cuStreamEndCapture(s, ref(made)))",
            [904],
        ),
        ("e = record(s); cu.cuStreamWaitEvent(t, e, 0); answer(cu.cuStreamEndCapture(t, ref(made)))", [903]),
        ("e = record(t); answer(cu.cuStreamWaitEvent(s, e, 0), cu.cuStreamEndCapture(s, ref(made)))", [905, 901]),
        ("e = record(s); answer(cu.cuEventQuery(e), cu.cuStreamEndCapture(s, ref(made)))", [907, 901]),
        (
            "cu.cuThreadExchangeStreamCaptureMode(ref(i32(2))); answer(alloc(1)[0], cu.cuStreamEndCapture(s, ref(made)))",
            [0, 0],
        ),
    ],
)
def test_a_capture_that_breaks_the_rules_gets_the_apis_error(run, code, errors):
    assert run(CAPTURE + code) == [errors]


def test_the_legacy_stream_beside_a_capture_of_a_blocking_stream_is_an_implicit_dependency(run):
    code = (
        START
        + """
s, made = stream(flags=0), ctypes.c_void_p(); cu.cuStreamBeginCapture_v2(s, 0); status = i32(7); value = u64(1)
params = (ctypes.c_void_p * 1)(ctypes.addressof(value))
answer(cu.cuStreamIsCapturing(None, ref(status)), cu.cuLaunchKernel(spin_, 1, 1, 1, 32, 1, 1, 0, None, params, None),
       cu.cuStreamEndCapture(s, ref(made)))
"""
    )
    assert run(code) == [[906, 906, 901]]


def test_truth_counts_time_received_and_work_done_apart(cards):
    """Two kernels side by side at full inflation: four milliseconds of the card, two of work each as if alone."""
    cards.configure(inflation_permille="1000", launch_ns="0", call_ns="0")
    code = START + "s, t = stream(), stream(); spin(2e6, s); spin(2e6, t); wait(); answer(0); sys.stdin.readline()"
    program = cards.start_python(code, env=cards.env())
    program.stdout.readline()
    (mine,) = cards.truth()["processes"]
    assert (mine["work_ns"], mine["kernels"]) == (4_000_000, 2)
    assert mine["busy_ns"] == cards.truth()["busy_ns"]
    assert 2_000_000 < mine["busy_ns"] <= 4_000_000 + 10  # a step is rounded up to whole nanoseconds
