"""However a program finds the driver, it finds the limiter."""

import pytest

GIB = 1 << 30
WAYS = ["linked", "soname", "path", "deepbind", "dlmopen", "next", "real-dlsym", "proc1", "proc2", "walk"]


def reach(cards, way, env, driver="libcuda.so.1"):
    flags = [str(cards.shim.driver)] if way == "linked" else []
    program = cards.shim.compile("paths.c", "-ldl", *flags, name="paths-linked" if flags else "paths")
    path = str(cards.shim.driver) if way in {"path", "dlmopen"} else driver
    done = cards.run(program, way, path, env=env)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_an_allocation_beyond_the_cap_is_refused(cards, way):
    assert reach(cards, way, cards.env(limited=True, MICA_MEMORY="1GiB")) == "2"


@pytest.mark.parametrize("way", WAYS)
def test_the_same_program_without_the_limiter_gets_its_memory(cards, way):
    """So that the test above cannot pass because a program is broken."""
    assert reach(cards, way, cards.env()) == "0"


def test_a_copy_of_the_driver_elsewhere_leads_to_the_one_in_use(cards, tmp_path):
    copy = tmp_path / "libcuda.so.550.1"
    copy.write_bytes(cards.shim.driver.read_bytes())
    assert reach(cards, "absolute", cards.env(limited=True, MICA_MEMORY="1GiB"), driver=str(copy)) == "2"


def test_the_limiter_mounted_over_the_driver_file_is_not_taken_for_the_driver(cards, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcuda.so.1").write_bytes(cards.shim.library.read_bytes())
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    env["LD_LIBRARY_PATH"] = f"{tmp_path / 'lib'}:{env['LD_LIBRARY_PATH']}"
    assert reach(cards, "soname", env) == "2"


@pytest.mark.parametrize("way", ["walk", "absolute"])
def test_where_the_limiter_is_mounted_over_the_versioned_file_who_goes_by_path_finds_it(cards, tmp_path, way):
    """As the node agent mounts it; the driver is where the agent says."""
    mounted = tmp_path / "libcuda.so.550.1"
    mounted.write_bytes(cards.shim.library.read_bytes())
    env = cards.env(limited=True, MICA_MEMORY="1GiB")
    assert reach(cards, way, env, driver=str(mounted)) == "2"


def test_per_thread_stream_variants_stay_per_thread(cards):
    code = """
def find(name, version, flags):
    pointer, status = ctypes.c_void_p(), i32(9)
    assert cu.cuGetProcAddress_v2(name, ref(pointer), version, u64(flags), ref(status)) == 0
    return pointer.value
own = lambda n: ctypes.cast(getattr(cu, n), ctypes.c_void_p).value
for name, version in ((b"cuLaunchKernel", 7000), (b"cuMemAllocAsync", 11020), (b"cuMemFreeAsync", 11020),
                       (b"cuLaunchKernelEx", 11060)):
    answer(find(name, version, 0) == own(name.decode()), find(name, version, 2) == own(name.decode() + "_ptsz"))
answer(find(b"cuMemAlloc", 3020, 0) == own("cuMemAlloc_v2"),
       find(b"cuMemAlloc", 13000, 0) == own("cuMemAlloc_v2"), find(b"cuMemAlloc", 2000, 0) == own("cuMemAlloc"))
"""
    found = cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert all(all(row) for row in found), found


def test_lookup_works_before_the_driver_is_started(cards):
    code = """
pointer, status = ctypes.c_void_p(), i32()
answer(cu.cuGetProcAddress_v2(b"cuInit", ref(pointer), 2000, u64(0), ref(status)),
       ctypes.CFUNCTYPE(i32, ctypes.c_uint)(pointer.value)(0))
"""
    assert cards.python(code, env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[0, 0]]


def chain(shim):
    first = shim.compile(
        "chain.c", "-shared", "-fPIC", "-O0", "-DLEVEL=1", "-Wl,-soname,libchain1.so", "-ldl", name="libchain1.so"
    )
    second = shim.compile(
        "chain.c", "-shared", "-fPIC", "-O2", "-DLEVEL=10", "-Wl,-soname,libchain2.so", "-ldl", name="libchain2.so"
    )
    main = shim.compile("chain_main.c", "-Wl,--no-as-needed", str(first), str(second), "-ldl", f"-Wl,-rpath,{shim.scratch}")
    return main, second


def test_the_next_symbol_is_the_one_after_the_caller_and_other_libraries_keep_their_names(cards):
    main, second = chain(cards.shim)
    for env in (cards.env(), cards.env(limited=True, MICA_MEMORY="1GiB")):
        assert cards.run(main, second, env=env).stdout.strip() == "11 4242 1"


def test_a_function_the_driver_lacks_does_not_stop_the_program_at_link_time(cards):
    program = cards.shim.compile("absent.c", str(cards.shim.library), "-ldl")
    done = cards.run(program, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert done.stdout.strip() == "801 1", done.stderr


def test_without_a_driver_a_program_sees_no_device(cards):
    code = "answer(cu.cuInit(0), cu.cuInit(0))"
    env = cards.env(limited=True, MICA_MEMORY="1GiB", MICA_DRIVER="/nowhere/libcuda.so.1")
    assert cards.python(code, env=env) == [[100, 100]]


def test_looking_up_while_another_thread_loads_the_driver_does_not_hang(cards):
    """The loader's lock is held around constructors: one thread must never wait for the other's loading."""
    library = cards.shim.compile("constructor.c", "-shared", "-fPIC", "-ldl", name="libconstructor.so")
    program = cards.shim.compile("two_loaders.c", str(cards.shim.driver), "-ldl", "-lpthread")
    done = cards.run(program, library, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["0", "1"])


def test_a_library_that_takes_a_context_while_it_is_loaded_does_not_hang(cards):
    """What the limiter loads for itself (NVML) is loaded before it holds a lock that a constructor may need."""
    library = cards.shim.compile(
        "two_contexts.c", "-DLIBRARY", "-shared", "-fPIC", str(cards.shim.driver), name="libtwocontexts.so"
    )
    program = cards.shim.compile("two_contexts.c", str(cards.shim.driver), "-ldl", "-lpthread")
    done = cards.run(program, library, env=cards.env(limited=True, MICA_MEMORY="1GiB"))
    assert (done.returncode, done.stdout) == (0, "0\n0\n")
