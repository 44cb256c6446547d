"""The limiter is preloaded into every process of a container, most of which never use a GPU."""

import subprocess
import sys

import pytest


def both(cards, *command):
    """Run a command bare and preloaded without any limits, as in a container whose slice is broken."""
    plain = cards.run(*command, env=cards.env())
    preloaded = cards.run(*command, env=cards.env(limited=True))
    return [(done.returncode, done.stdout, done.stderr) for done in (plain, preloaded)]


@pytest.mark.parametrize(
    "command",
    [
        ("ls", "/"),
        ("bash", "-c", "echo $((6*7)); false"),
        ("sh", "-c", "echo a | cat | tr a b"),
        (
            sys.executable,
            "-c",
            "import ssl, sqlite3, threading, json; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()",
        ),
        (sys.executable, "-c", "import subprocess; print(subprocess.run(['ls', '/'], capture_output=True).stdout)"),
        (sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).no_such_name)"),
        (sys.executable, "-c", "import numpy; print(numpy.arange(1000).reshape(10, 100).dot(numpy.ones(100)).sum())"),
        ("env", "-i", "/bin/true"),
    ],
)
def test_output_and_status_are_the_same(cards, command):
    plain, preloaded = both(cards, *command)
    assert preloaded == plain


def test_opening_the_driver_and_looking_up_its_names_says_nothing_and_touches_nothing(cards):
    done = cards.run(
        sys.executable, "-c", "import ctypes; print(bool(ctypes.CDLL('libcuda.so.1').cuInit))", env=cards.env(limited=True)
    )
    assert (done.stdout.strip(), done.stderr) == ("True", "")
    assert [p.name for p in cards.directory.iterdir()] == ["config"]


def test_a_static_program_of_another_libc_runs(cards, tmp_path):
    source = tmp_path / "hello.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 7; }\n')
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86_64-linux-musl",
        "-static",
        str(source),
        "-o",
        str(tmp_path / "hello"),
    ]
    subprocess.run(command, check=True)
    plain, preloaded = both(cards, tmp_path / "hello")
    assert preloaded == plain == (7, "hello\n", "")
