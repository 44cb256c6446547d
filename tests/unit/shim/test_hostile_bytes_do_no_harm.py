"""Limits files and regions of any content, by a coverage-guided fuzzer: refused in words or bounded, never more than the limit.

The harnesses under `fuzz/` are libFuzzer's; `fuzz/driver.c` takes its place where there is none. UBSan traps. To go on longer:
`clang -g -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I vgpu_shim/include` and the sources that SOURCES names, without the
driver.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent / "fuzz"
SHIM = ROOT / "vgpu_shim"
SOURCES = {
    "limits": ("src/limits.c",),
    "region": ("src/limits.c", "src/ledger.c", "src/region.c", "src/work.c", "src/log.c"),
    "view": ("tools/monitor_print.c", "src/limits.c", "src/ledger.c", "src/region.c", "src/work.c", "src/log.c"),
}
"""Harness → what it tries."""


def build(name: str, folder: Path) -> Path:
    """Build one fuzzer with the shim's compiler."""
    out = folder / name
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86_64-linux-gnu.2.17",
        "-std=c11",
        "-D_GNU_SOURCE",
        "-O1",
        "-g",
    ]
    command += ["-Wall", "-Wextra", "-Werror", "-fsanitize-coverage=inline-8bit-counters,pc-table"]
    command += ["-fsanitize=undefined", "-fsanitize-trap=undefined", f"-I{SHIM / 'include'}"]
    command += [str(FOLDER / "driver.c"), str(FOLDER / f"{name}.c"), *(str(SHIM / source) for source in SOURCES[name])]
    subprocess.run([*command, "-o", str(out)], check=True, timeout=200)
    return out


def fuzz(name: str, folder: Path, runs: int, seed: int = 1) -> dict[str, int]:
    """Run a fuzzer over the corpus and `runs` inputs made from it."""
    corpus = sorted(str(path) for path in (FOLDER / "corpus" / name).iterdir())
    crash = folder / f"{name}.crash"
    command = [str(build(name, folder)), str(runs), str(seed), str(crash), *corpus]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=folder)
    assert done.returncode == 0, f"{done.stderr[-2000:]}\ninput: {crash.read_bytes()!r}"
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("name", "least"), [("limits", 100), ("region", 120), ("view", 80)])
def test_the_corpus_and_what_is_near_it(name, least, tmp_path):
    found = fuzz(name, tmp_path, runs=2000)
    assert found["kept"] > 10
    assert found["reached"] >= least  # it gets into the code, or it shows nothing


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "runs"), [("limits", 1_500_000), ("region", 60_000), ("view", 100_000)])
def test_a_million_limits_files_and_many_regions(name, runs, tmp_path):
    print(name, fuzz(name, tmp_path, runs, seed=2))


def test_a_fuzzer_finds_a_planted_bug(tmp_path):
    """The driver itself: four letters that only coverage leads to."""
    planted = tmp_path / "planted.c"
    planted.write_text(
        "#include <stdint.h>\n#include <stddef.h>\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)\n"
        "{ if (n > 3 && d[0] == 'b') if (d[1] == 'u') if (d[2] == 'g') if (d[3] == '!') __builtin_trap(); return 0; }\n"
    )
    command = [sys.executable, "-m", "ziglang", "cc", "-O1", "-fsanitize-coverage=inline-8bit-counters,pc-table"]
    subprocess.run([*command, str(FOLDER / "driver.c"), str(planted), "-o", str(tmp_path / "planted")], check=True)
    crash = tmp_path / "crash"
    done = subprocess.run([str(tmp_path / "planted"), "3000000", "1", str(crash)], check=False, timeout=100)
    assert done.returncode < 0
    assert crash.read_bytes().startswith(b"bug!")
