"""Faults and traces of the simulated driver: what is ordered happens at that call and no other, and all calls are on record."""

import pytest

LOOP = "init(); answer(*(alloc(1 << 20)[0] for _ in range(5)))"


def trace(cards):
    return [line.split() for line in (cards.directory / "trace").read_text().splitlines()]


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        ("cuMemAlloc_v2:3:2", [0, 0, 2, 0, 0]),
        ("cuMemAlloc_v2:3+:999", [0, 0, 999, 999, 999]),
        ("cuMemAlloc:1:2", [0, 0, 0, 0, 0]),  # another function of a similar name
    ],
)
def test_the_nth_call_answers_with_the_error_that_was_ordered(cards, fault, errors):
    cards.configure(**{"fault.0": fault})
    assert cards.python(LOOP, env=cards.env()) == [errors]


def test_a_failed_call_has_done_nothing(cards):
    cards.configure(**{"fault.0": "cuMemAlloc_v2:1:2"})
    assert cards.python("init(); answer(alloc(1 << 30)[0], info()[1] == info()[2])", env=cards.env()) == [[2, True]]


def test_several_faults_count_for_themselves_and_each_process_from_the_start(cards):
    cards.configure(**{"fault.0": "cuMemAlloc_v2:2:2", "fault.1": "cuMemFree_v2:1:700"})
    code = "init(); a = alloc(1)[1]; answer(alloc(1)[0], free(a), free(a))"
    assert cards.python(code, env=cards.env()) == cards.python(code, env=cards.env()) == [[2, 700, 0]]


def test_a_call_that_is_to_block_never_returns(cards):
    cards.configure(**{"fault.0": "cuMemAlloc_v2:2:block"}, trace="1")
    program = cards.start_python("init(); answer(alloc(1)[0]); alloc(1); answer(1)", env=cards.env())
    assert program.stdout.readline() == "[0]\n"
    while [line[2] for line in trace(cards)].count("cuMemAlloc_v2") < 2:
        pass
    assert program.poll() is None


@pytest.mark.parametrize("fault", ["cuMemAlloc_v2", "cuMemAlloc_v2:0:2", "cuMemAlloc_v2:1:1000", "cuMemAlloc_v2:1:never", ":1:2"])
def test_a_fault_that_cannot_be_meant_is_refused(cards, fault):
    cards.configure(**{"fault.0": fault})
    done = cards.run(cards.shim.probe, env=cards.env())
    assert done.returncode == 1
    assert "fault.0" in done.stderr


def test_a_trace_has_every_call_with_its_arguments_and_the_error_put_in_its_place(cards):
    cards.configure(**{"fault.0": "cuMemAlloc_v2:2:2"}, trace="1")
    (ids,) = cards.python("init(); answer(os.getpid(), alloc(4096)[0], alloc(8192)[0])", env=cards.env())
    lines = trace(cards)
    assert [line[2] for line in lines] == [
        "cuInit",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemAlloc_v2",
        "cuMemAlloc_v2",
    ]
    assert {int(line[1]) for line in lines} == {ids[0]}
    assert [(line[4], line[-1]) for line in lines[-2:]] == [("1000", "-1"), ("2000", "2")]
    times = [int(line[0]) for line in lines]
    assert times == sorted(times)


def test_without_a_trace_no_file_is_written(cards):
    cards.python(LOOP, env=cards.env())
    assert not (cards.directory / "trace").exists()


def test_the_limiter_and_the_driver_can_be_told_apart_by_the_trace(cards):
    """A refused allocation never reaches the driver."""
    cards.configure(trace="1")
    assert cards.python("init(); answer(alloc(2 << 30)[0])", env=cards.env(limited=True, MICA_MEMORY="1GiB")) == [[2]]
    assert "cuMemAlloc_v2" not in {line[2] for line in trace(cards)}
