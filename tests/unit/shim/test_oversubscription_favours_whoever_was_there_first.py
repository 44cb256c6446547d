"""With oversubscription a slice gets its memory on a full card too, on the host; holders keep what they have, caps hold."""

import pytest

GIB = 1 << 30
FILL = "init(); held = [alloc(GIB)[0] for _ in range(9)]; answer(*held, info()[1:])"


def full_card(cards, **extra):
    """A card of 4 GiB with 3 GiB of somebody else's on it."""
    cards.configure(memory=4 * GIB, managed="oversubscribe", **extra)
    holder = cards.start(cards.shim.probe, "--alloc", str(3 * GIB), "--hold", "60", env=cards.env())
    holder.stdout.readline()
    return holder


def test_the_newcomer_gets_its_slice_on_the_host_and_its_cap_holds(cards):
    holder = full_card(cards)
    env = cards.env(limited=True, MICA_MEMORY="3GiB", MICA_OVERSUBSCRIBE="true")
    assert cards.python(FILL, env=env) == [[0] * 3 + [2] * 6 + [[0, 3 * GIB]]]
    assert holder.poll() is None
    assert cards.truth()["memory_used"] == 3 * GIB


@pytest.mark.parametrize("value", ["false", ""])
def test_without_it_a_full_card_refuses_the_newcomer(cards, value):
    full_card(cards)
    env = cards.env(limited=True, MICA_MEMORY="3GiB", MICA_OVERSUBSCRIBE=value)
    assert cards.python(FILL, env=env)[0][:9] == [0] + [2] * 8


def test_memory_that_cannot_be_managed_is_refused_on_a_full_card(cards):
    full_card(cards)
    code = """
init(); a, b = u64(), u64()
answer(alloc(GIB)[0], cu.cuMemAllocAsync(ref(a), ctypes.c_size_t(GIB), None), alloc(GIB)[0], cu.cuMemFree_v2(a), info()[1] // GIB)
"""
    env = cards.env(limited=True, MICA_MEMORY="3GiB", MICA_OVERSUBSCRIBE="true")
    assert cards.python(code, env=env) == [[0, 2, 0, 0, 1]]


def test_the_limits_file_has_the_same_key(cards):
    full_card(cards)
    path = cards.limits(memory=3 * GIB)
    path.write_text(path.read_text().replace("gpus=1", "oversubscribe=true\ngpus=1"))
    assert cards.python(FILL, env=cards.env(managed=True))[0][:9] == [0] * 3 + [2] * 6


def test_a_value_that_is_neither_true_nor_false_is_refused_in_words(cards):
    done = cards.run(cards.shim.probe, env=cards.env(limited=True, MICA_MEMORY="1GiB", MICA_OVERSUBSCRIBE="maybe"))
    assert "MICA_OVERSUBSCRIBE=maybe is neither true nor false" in done.stderr
