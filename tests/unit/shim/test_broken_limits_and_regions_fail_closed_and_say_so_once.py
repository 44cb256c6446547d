"""Whatever is in limits or region: one clear line, an error for the GPU, a program that goes on, no unlimited slice."""

import pytest

GIB = 1 << 30
MANY_TRIES = "answer(*[cu.cuInit(0) for _ in range(5)], alloc(GIB)[0], info()[0], cu.cuMemFree_v2(u64(1)))"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("", "version=1 or gpus= is missing"),
        ("version=1\ngeneration=1\ngpus=1\ngpu.0.uuid=GPU-5a1e", "gpu.0 needs uuid, memory and cores"),
        ("version=7\ngpus=0\n", "bad value"),
        ("version=1\ngpus=99\n", "bad value"),
        ("version=1\ngpus=1\ngpu.0.uuid=x\ngpu.0.memory=99999999999999999999\ngpu.0.cores=10\n", "bad value"),
        ("version=1\ngpus=1\ngpu.0.uuid=x\ngpu.0.memory=0\ngpu.0.cores=10\n", "bad value"),
        ("version=1\noversubscribe=perhaps\ngpus=0\n", "bad value"),
        ("\0\1\2" * 100, "is not a limits file"),
        ("#" * 9000, "is not a limits file"),
    ],
)
def test_limits_that_make_no_sense_refuse_the_gpu_with_one_line(cards, text, words):
    path = cards.limits()
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    env = cards.env(managed=True)
    done = cards.run(cards.shim.probe, env=env)
    lines = [line for line in done.stderr.splitlines() if "mica" in line]
    assert len(lines) == 1 and words in lines[0], done.stderr
    answers = cards.python(MANY_TRIES.replace("info()[0], ", ""), env=env)[0]
    assert answers[:6] == [800] * 6
    assert cards.truth()["memory_used"] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be opened"),
        (b"", "has 0 bytes"),
        (b"MICARGN1", "has 8 bytes"),
        (bytes(335872), "has 335872 bytes"),
        (b"x" * 1069056, "is not a region of version 2"),
        (b"MICARGN1\x01" + bytes(1069056 - 9), "is not a region of version 2"),
    ],
)
def test_a_region_that_makes_no_sense_refuses_the_gpu_with_one_line(cards, content, words):
    cards.limits(memory=GIB)
    env = cards.env(managed=True)
    if content is None:
        cards.region().unlink()
    else:
        cards.region().write_bytes(content)
    done = cards.run(cards.shim.probe, env=env)
    lines = [line for line in done.stderr.splitlines() if "mica" in line]
    assert len(lines) == 1 and words in lines[0], done.stderr
    assert cards.python(MANY_TRIES.replace("info()[0], ", ""), env=env)[0][:6] == [800] * 6


def test_a_stand_alone_region_of_another_version_beside_ours_is_left_alone(cards):
    old = cards.directory / "mica-0-default.region"
    old.write_bytes(b"MICARGN1\x01" + bytes(335863))
    assert cards.probe("--alloc", str(GIB), env=cards.env(limited=True, MICA_MEMORY="1GiB"))["alloc_error"] == 0
    assert old.stat().st_size == 335872
