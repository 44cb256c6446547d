"""The agent's discovery, with the real pynvml, on the NVML of `make shim`. In a process of its own: pynvml is global."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFIG = """version=1
gpus=2
gpu.0.uuid=GPU-5a1e0000-0000-4000-8000-000000000000
gpu.0.numa=0
gpu.1.uuid=GPU-5a1e0000-0000-4000-8000-000000000001
gpu.1.numa=1
gpu.1.memory=42949672960
link.0.1=NV18
"""
PROGRAM = """
import json, sys, time
from pathlib import Path
from mica_device_plugin.discovery import NvmlDiscovery

libraries, state = map(Path, sys.argv[1:])
discovery = NvmlDiscovery(simulated=True, library_dir=libraries, sim_dir=state)
config = (state / "config").read_text()

def cards():
    return [[g.uuid[-1:], g.memory_mib, g.numa, g.healthy, [l.type for l in g.links]] for g in discovery.survey().inventory.gpus]

def until(healthy):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if [c[3] for c in cards()] == healthy:
            return True
    return False

found = [cards()]
(state / "config").write_text(config + "gpu.1.health=xid:79\\n")
found.append(until([True, False]))
(state / "config").write_text(config)
found.append(until([True, True]))
print(json.dumps(found))
"""


def test_cards_links_and_health_are_read_through_the_public_api(tmp_path):
    (tmp_path / "config").write_text(CONFIG)
    libraries = ROOT / "build" / "shim" / "sim"
    assert (libraries / "libnvidia-ml.so.1").exists(), "run `make shim` first"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, libraries, tmp_path], check=True, capture_output=True, text=True, env=environment
    )
    expected = [["0", 81920, 0, True, ["NV18"]], ["1", 40960, 1, True, ["NV18"]]]
    assert json.loads(run.stdout.splitlines()[-1]) == [expected, True, True]
