"""All families of memory, launches, captures, graphs and contexts from threads at once. `make sanitize` runs it under TSan."""

import time


def stress(cards):
    return cards.shim.compile("stress.c", f"-L{cards.shim.root / 'sim'}", "-l:libcuda.so.1", "-lpthread")


def test_in_the_end_nothing_is_charged_and_the_driver_holds_nothing(cards):
    cards.limits(memory=64 << 20, cores=80)
    done = cards.run(stress(cards), "8", "300", env=cards.env(managed=True))
    assert done.returncode == 0, done.stderr
    left, refused, failed = map(int, done.stdout.split())
    assert (left, failed) == (0, 0)
    assert refused > 0  # the cap was reached, or nothing was shown
    assert cards.truth()["memory_used"] == 0
    assert "WARNING" not in done.stderr


def test_limits_may_change_meanwhile(cards):
    cards.limits(memory=256 << 20, cores=80)
    program = cards.start(stress(cards), "8", "2000", env=cards.env(managed=True))
    generation = 1
    while program.poll() is None:
        generation += 1
        cards.limits(memory=(128 if generation % 2 else 256) << 20, cores=generation % 100, generation=generation)
        time.sleep(0.02)
    left, _, failed = map(int, program.stdout.read().split())
    assert (program.returncode, left, failed) == (0, 0, 0)
    assert generation > 2
