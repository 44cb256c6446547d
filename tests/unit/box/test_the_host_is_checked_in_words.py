from __future__ import annotations

from pathlib import Path

import pytest

from mica_box import cgroups, host, state
from mica_box.errors import BoxError
from mica_box.locks import shared
from mica_box.plan import Plan
from mica_box.proc import run


def test_too_little_space_says_how_much_is_needed_and_where(tmp_path: Path) -> None:
    with pytest.raises(BoxError) as refused:
        host.require_space(tmp_path / "not" / "yet", 1 << 60, "the Go build")
    assert "the Go build needs 1073741824.0 GiB" in refused.value.what
    assert "MICA_CACHE" in refused.value.do


def test_enough_space_is_no_error(tmp_path: Path) -> None:
    host.require_space(tmp_path, 1, "nothing much")


def test_what_the_box_and_the_images_need_has_a_package_that_brings_it() -> None:
    assert {*host.BOX_NEEDS, *host.IMAGE_NEEDS} <= set(host.PACKAGES)


def test_programs_in_sbin_count_as_present_and_unknown_ones_do_not() -> None:
    assert host.is_present("sh")
    assert host.is_present("/etc")
    assert not host.is_present("no-such-program-here")


def test_a_failed_command_carries_the_end_of_what_it_said() -> None:
    with pytest.raises(BoxError) as failed:
        run(["sh", "-c", "echo the reason >&2; exit 3"])
    assert "status 3" in failed.value.what
    assert "the reason" in failed.value.what


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(BoxError) as failed:
        run(["no-such-program-here"])
    assert failed.value.what == "no-such-program-here is not installed"


def test_mount_points_that_were_made_go_with_the_last_box(tmp_path: Path) -> None:
    boxes, made, found = tmp_path / "boxes", tmp_path / "made", tmp_path / "found"
    found.mkdir()
    plans = [Plan(name=name, index=i, root=boxes / name) for i, name in enumerate(["one", "two"])]
    for plan in plans:
        state.save(plan)
    state.make_folders(boxes, [str(made), str(found)])
    assert [plan.name for plan in state.load_all(boxes)] == ["one", "two"]
    state.forget(plans[0], boxes)
    assert made.is_dir(), "the other box may have mounted on it"
    state.forget(plans[1], boxes)
    assert not made.exists()
    assert found.is_dir(), "it was there before us"
    assert not boxes.exists()


def test_a_half_written_plan_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "plan.json").write_text('{"name": "box"')
    assert state.load(tmp_path, "box") is None
    assert state.load(tmp_path, "never") is None


def test_cgroup_folders_are_removed_bottom_up_in_every_hierarchy(tmp_path: Path) -> None:
    for controller in ("memory", "pids"):
        (tmp_path / controller / "mica-box-x" / "kubepods" / "pod1").mkdir(parents=True)
        (tmp_path / controller / "other").mkdir()
    cgroups.remove("mica-box-x", tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["memory", "other", "other", "pids"]


def test_a_v1_cpuset_starts_with_its_parents_processors(tmp_path: Path) -> None:
    (tmp_path / "cpuset" / "mica-box-x").mkdir(parents=True)
    for file, text in (("cpuset.cpus", "0-1"), ("cpuset.mems", "0")):
        (tmp_path / "cpuset" / file).write_text(text)
        (tmp_path / "cpuset" / "mica-box-x" / file).write_text("\n")
    cgroups.create("mica-box-x", tmp_path)
    assert (tmp_path / "cpuset" / "mica-box-x" / "cpuset.cpus").read_text() == "0-1"


def test_v2_hands_the_controllers_down(tmp_path: Path) -> None:
    assert cgroups.hierarchies(tmp_path) == []
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids")
    assert cgroups.hierarchies(tmp_path) == [tmp_path]


def test_who_leaves_a_shared_thing_last_puts_the_light_out(tmp_path: Path) -> None:
    out: list[str] = []
    with shared(tmp_path / "lock", last_one=lambda: out.append("outer")):
        with shared(tmp_path / "lock", last_one=lambda: out.append("inner")):
            assert out == []
        assert out == []
    assert out == ["outer"]
