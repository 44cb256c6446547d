"""Equal shapes are one key, however they were made and in whatever process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Shape

SHAPE = Shape(PodRequest((ContainerRequest("main", 1, 20, 3072),)), Selection(use_models=frozenset({"a100"})), 4000)
_FINDS_IT = """
import pickle, sys
shape = pickle.load(sys.stdin.buffer)
same = type(shape)(shape.request, shape.selection, shape.cpu_milli)
sys.exit(0 if {shape: True}.get(same) else 3)
"""


def test_equal_shapes_are_one_key() -> None:
    same = Shape(PodRequest((ContainerRequest("main", 1, 20, 3072),)), Selection(use_models=frozenset({"a100"})), 4000)
    assert {SHAPE: True}.get(same)
    assert replace(replace(SHAPE, cpu_milli=1), cpu_milli=4000) in {SHAPE}
    assert replace(SHAPE, cpu_milli=1) not in {SHAPE}


def test_a_shape_is_found_in_another_process() -> None:
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", _FINDS_IT], input=pickle.dumps(SHAPE), env=env, check=False)
        assert done.returncode == 0
