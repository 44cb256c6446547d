"""Children of every kind, contexts without number."""

PREAMBLE = """
import ctypes
MIB = 1 << 20
cu, u64, ref = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64, ctypes.byref
def init():
    context = ctypes.c_void_p()
    return cu.cuInit(0) or cu.cuDevicePrimaryCtxRetain(ref(context), 0) or cu.cuCtxSetCurrent(context)
def alloc(size):
    return (cu.cuMemAlloc_v2(ref(u64()), ctypes.c_size_t(size)),)
def answer(*values):
    print(json.dumps(values), flush=True)
"""
GIB = 1 << 30
MIB = 1 << 20


def test_contexts_without_number_are_each_charged_and_given_back(cards):
    cards.configure(context_overhead=str(64 * MIB))
    code = """
assert init() == 0
made = []
for _ in range(200):
    c = ctypes.c_void_p(); assert cu.cuCtxCreate_v2(ref(c), 0, 0) == 0; made.append(c)
    assert alloc(2 * MIB)[0] == 0 and cu.cuCtxPopCurrent_v2(None) == 0
before = info()[1] // MIB
for c in made: assert cu.cuCtxDestroy_v2(c) == 0
assert cu.cuDevicePrimaryCtxRetain(ref(c), 0) == 0 and cu.cuCtxSetCurrent(c) == 0
answer(before, info()[1] // MIB)
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[1024 - 64 - 400, 1024 - 64]]


def test_a_context_that_does_not_fit_is_refused_and_takes_nothing(cards):
    cards.configure(context_overhead=str(300 * MIB))
    env = cards.env(limited=True, MICA_MEMORY="700MiB")
    first, second = (cards.start_python("assert init() == 0; answer(); sys.stdin.readline()", env=env) for _ in range(2))
    assert first.stdout.readline() == second.stdout.readline() == "[]\n"
    assert cards.python("answer(init())", env=env) == [[2]]
    assert cards.truth()["memory_used"] == 600 * MIB


def test_children_by_vfork_and_exec_have_slots_of_their_own(cards):
    """subprocess.run uses vfork where it can; the child is another program with its own context."""
    code = """
import subprocess
assert init() == 0 and alloc(600 * MIB)[0] == 0
child = "import json, os, sys; exec(os.environ['CHILD']); assert init() == 0; answer(alloc(600 * MIB)[0], alloc(300 * MIB)[0])"
out = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, close_fds=False)
print(out.stdout, end="", flush=True)
answer(alloc(400 * MIB)[0])
"""
    env = cards.env(limited=True, MICA_MEMORY="1GiB", CHILD=PREAMBLE)
    assert cards.python(code, env=env) == [[2, 0], [0]]


def test_one_more_child_that_execs_while_its_parent_holds_everything_gets_nothing(cards):
    code = """
assert init() == 0 and alloc(GIB)[0] == 0
child = os.fork()
if child == 0: os.execv(PROBE, [PROBE, "--alloc", str(2 * MIB)])
os.waitpid(child, 0)
"""
    code = f"PROBE = {str(cards.shim.probe)!r}\n" + code
    done = cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert done[0]["alloc_error"] == 2


def test_processes_of_two_pid_namespaces_that_have_one_number_are_two(cards):
    """A container may make namespaces of its own, and its region is shared by all that it starts."""
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    code = "assert init() == 0 and alloc(300 * MIB)[0] == 0; answer(os.getpid()); sys.stdin.readline()"
    apart = ("unshare", "-r", "--pid", "--fork", "--kill-child")
    first, second = (cards.start_python(code, env=env, under=apart) for _ in range(2))
    assert first.stdout.readline() == second.stdout.readline() == "[1]\n"
    left = "assert init() == 0; answer(info()[1] // MIB)"
    assert cards.python(left, env=env) == [[424]]
    first.kill()
    first.wait()
    freed = """
assert init() == 0
deadline = time.monotonic() + 20
while info()[1] // MIB != 724 and time.monotonic() < deadline: time.sleep(0.01)
answer(info()[1] // MIB, alloc(800 * MIB)[0], alloc(700 * MIB)[0])
"""
    assert cards.python(freed, env=env) == [[724, 2, 0]]
