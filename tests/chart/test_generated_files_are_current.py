from __future__ import annotations

from pathlib import Path

from mica_generate.files import REPOSITORY, drift, generated, write


def test_the_tree_holds_what_the_generator_writes() -> None:
    assert drift(REPOSITORY, generated()) == []


def test_a_changed_a_missing_and_a_superfluous_file_are_drift_and_are_repaired(tmp_path: Path) -> None:
    write(tmp_path, generated())
    changed, missing = sorted(generated())[:2]
    (tmp_path / changed).write_text("edited by hand")
    (tmp_path / missing).unlink()
    superfluous = tmp_path / "crds" / "gone.mica.dev.yaml"
    superfluous.write_text("kind: Old")
    expected = sorted([changed, missing, "crds/gone.mica.dev.yaml"])
    assert drift(tmp_path, generated()) == expected
    assert write(tmp_path, generated()) == expected
    assert drift(tmp_path, generated()) == []
    assert not superfluous.exists()


def test_crds_in_the_chart_survive_its_removal(render: object) -> None:
    assert callable(render)
    bodies = render()
    crds = [b for b in bodies if b["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 3
    assert all(b["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for b in crds)
    assert not [b for b in render("crds.enabled=false") if b["kind"] == "CustomResourceDefinition"]
