"""From what people write to what the scheduler reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_api import names
from mica_api.compute import ComputeRules
from mica_api.request import read_request
from mica_extender.admission.catalogue import Catalogue, CatalogueCache
from mica_extender.admission.mutate import Admitted, mutate, validate
from mica_extender.admission.pod import Refused, app_containers
from mica_extender.admission.rules import Rules
from mica_extender.placement import Card

CARDS = {"n1": (Card("GPU-1", 0, "NVIDIA A100-SXM4-80GB", 81920),), "n2": (Card("GPU-2", 0, "Tesla T4", 16384),)}
RULES = Rules(catalogue=Catalogue.of(CARDS))


def plain(limits: dict[str, Any] | None = None, *, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": "x"}
    if limits is not None:
        container["resources"] = {"limits": limits}
    meta: dict[str, Any] = {"name": "a", **({"annotations": annotations} if annotations else {})}
    return {"metadata": meta, "spec": {"containers": [container], "schedulerName": "default-scheduler", **spec}}


def applied(pod: dict[str, Any], admitted: Admitted) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(pod))
    for change in admitted.changes:
        *parents, last = change.path.strip("/").split("/")
        target: Any = result
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        target[int(last) if isinstance(target, list) else last] = change.value
    return result


def admit(pod: dict[str, Any], rules: Rules = RULES) -> dict[str, Any]:
    result = applied(pod, mutate(pod, rules))
    validate(result, rules)
    return result


MICA_LIMITS = {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-cores": 20, "mica.dev/vgpu-memory-1Gi": 3}


def test_a_plain_slice_pod_is_labelled_scheduled_by_us_and_carries_its_request() -> None:
    pod = admit(plain({"cpu": "1", **MICA_LIMITS}))
    assert pod["metadata"]["labels"] == {names.LABEL_SLICE: "true"}
    assert pod["spec"]["schedulerName"] == "mica-scheduler"
    canonical = {"mica.dev/vgpu-number": "1", "mica.dev/vgpu-cores": "20", "mica.dev/vgpu-memory-1Gi": "3"}
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1", **canonical}, "requests": canonical}
    request = read_request([(c.name, c.limits) for c in app_containers(pod)], pod["metadata"]["annotations"])
    assert (request.containers[0].number, request.containers[0].cores, request.containers[0].memory_mib) == (1, 20, 3072)
    assert names.ANNOTATION_ORIGINAL not in pod["metadata"]["annotations"]


def test_a_hami_pod_keeps_its_mebibytes_and_the_original_is_remembered() -> None:
    pod = admit(
        plain({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}, schedulerName="hami-scheduler")
    )
    annotations = pod["metadata"]["annotations"]
    assert json.loads(annotations[names.ANNOTATION_REQUEST])["containers"][0]["mem"] == 3000
    assert json.loads(annotations[names.ANNOTATION_ORIGINAL])["main"]["nvidia.com/gpumem"] == "3000"
    assert set(pod["spec"]["containers"][0]["resources"]["limits"]) == {"mica.dev/vgpu-number", "mica.dev/vgpu-cores"}


@pytest.mark.parametrize(
    "limits",
    [MICA_LIMITS, {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 30}],
)
def test_admitting_an_admitted_pod_changes_nothing(limits: dict[str, Any]) -> None:
    once = admit(plain(limits, annotations={"nvidia.com/use-gputype": "A100"}))
    assert mutate(once, RULES).changes == ()


def test_a_container_injected_after_us_is_taken_up_without_losing_exact_memory() -> None:
    once = admit(plain({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}))
    once["spec"]["containers"].append({"name": "proxy"})
    twice = admit(once)
    containers = json.loads(twice["metadata"]["annotations"][names.ANNOTATION_REQUEST])["containers"]
    assert [(c["name"], c["number"], c["mem"]) for c in containers] == [("main", 1, 3000), ("proxy", 0, 0)]


def test_a_request_annotation_that_contradicts_the_resources_is_refused() -> None:
    once = admit(plain({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}))
    once["spec"]["containers"][0]["resources"]["limits"]["mica.dev/vgpu-number"] = "2"
    once["spec"]["containers"][0]["resources"]["requests"]["mica.dev/vgpu-number"] = "2"
    with pytest.raises(Refused, match="remove the annotation"):
        mutate(once, RULES)


def test_quantities_are_read_as_the_api_server_spells_them() -> None:
    pod = admit(plain({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3k"}))
    assert json.loads(pod["metadata"]["annotations"][names.ANNOTATION_REQUEST])["containers"][0]["mem"] == 3000


def test_a_round_number_of_gibibytes_survives_the_api_servers_spelling() -> None:
    rules = Rules()
    pod = admit(plain({"mica.dev/vgpu-memory-1Gi": "1000"}), rules)
    for kind in ("limits", "requests"):
        pod["spec"]["containers"][0]["resources"][kind]["mica.dev/vgpu-memory-1Gi"] = "1k"
    validate(pod, rules)
    assert mutate(pod, rules).changes == ()


def test_a_number_alone_means_the_whole_card() -> None:
    pod = admit(plain({"mica.dev/vgpu-number": "2"}))
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"mica.dev/vgpu-number": "2", "mica.dev/vgpu-cores": "100"}


def test_selection_annotations_are_written_under_our_names_too() -> None:
    pod = admit(
        plain({"nvidia.com/gpu": 1}, annotations={"nvidia.com/use-gputype": "A100", "hami.io/gpu-scheduler-policy": "spread"})
    )
    assert pod["metadata"]["annotations"][names.ANNOTATION_USE_MODEL] == "A100"
    assert pod["metadata"]["annotations"][names.ANNOTATION_GPU_POLICY] == "spread"


def test_other_limiters_knobs_are_removed_with_a_warning_and_the_rest_is_kept() -> None:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["env"] = [
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
        {"name": "CUDA_DEVICE_MEMORY_LIMIT_0", "value": "1g"},
        {"name": "LD_LIBRARY_PATH", "value": "/opt"},
    ]
    admitted = mutate(pod, RULES)
    assert applied(pod, admitted)["spec"]["containers"][0]["env"] == [{"name": "LD_LIBRARY_PATH", "value": "/opt"}]
    assert len(admitted.warnings) == 1
    assert "CUDA_DEVICE_MEMORY_LIMIT_0, NVIDIA_VISIBLE_DEVICES" in admitted.warnings[0]


def test_a_pod_that_asks_for_nothing_passes_untouched() -> None:
    pod = plain({"cpu": "1"}, nodeName="n1", hostPID=True)
    assert mutate(pod, RULES) == Admitted()
    validate(pod, RULES)


def test_a_request_for_zero_gpus_is_taken_away() -> None:
    pod = plain({"cpu": "1", "nvidia.com/gpu": 0})
    assert applied(pod, mutate(pod, RULES))["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (plain({"mica.dev/vgpu-memory-1Gi": 81}), "the largest GPU it may use has 81920 MiB"),
        (plain({"mica.dev/vgpu-memory-1Gi": 20}, annotations={names.ANNOTATION_USE_MODEL: "T4"}), "has 16384 MiB"),
        (plain(MICA_LIMITS, annotations={names.ANNOTATION_USE_MODEL: "H100"}), "models here: NVIDIA A100-SXM4-80GB, Tesla T4"),
        (plain(MICA_LIMITS, annotations={names.ANNOTATION_USE_UUID: "GPU-9"}), "no GPU of this cluster matches"),
        (plain({"mica.dev/vgpu-number": 2}), "no node here has more than 1 that it may use"),
    ],
)
def test_what_no_node_has_today_is_admitted_with_a_warning(pod: dict[str, Any], words: str) -> None:
    admit(pod)
    (warning,) = mutate(pod, RULES).warnings
    assert words in warning
    assert "it waits until" in warning


def test_what_some_node_has_needs_no_warning() -> None:
    assert mutate(plain(MICA_LIMITS, annotations={names.ANNOTATION_USE_UUID: "GPU-9,GPU-2"}), RULES).warnings == ()


def test_without_any_known_card_nothing_is_doubted() -> None:
    pod = plain({**MICA_LIMITS, "mica.dev/vgpu-memory-1Gi": 500}, annotations={names.ANNOTATION_USE_MODEL: "H100"})
    assert mutate(pod, Rules()).warnings == ()


def test_the_cards_of_the_cluster_are_gone_over_once_per_change_of_the_inventory() -> None:
    version, made = [1], []

    def nodes() -> list[tuple[str, tuple[Card, ...]]]:
        made.append(version[0])
        return list(CARDS.items())

    cache = CatalogueCache(version=lambda: version[0], nodes=nodes)
    assert cache.get() is cache.get()
    version[0] = 2
    assert cache.get() == Catalogue.of(CARDS)
    assert made == [1, 2]


def _env(name: str) -> dict[str, Any]:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["env"] = [{"name": name, "value": "x"}]
    return pod


def _init(limits: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "setup", **({"resources": {"limits": limits}} if limits else {}), **extra}
    return plain(MICA_LIMITS, initContainers=[container])


def _privileged() -> dict[str, Any]:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    return pod


def _capability(name: str) -> dict[str, Any]:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["NET_BIND_SERVICE", name]}}
    return pod


def _requests() -> dict[str, Any]:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["resources"]["requests"] = {"mica.dev/vgpu-number": 2}
    return pod


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (plain({"mica.dev/vgpu-cores": 101}), "at most 100"),
        (plain({"mica.dev/vgpu-number": 1, "nvidia.com/gpu": 1}), "mixed"),
        (plain({"mica.dev/vgpu-number": "1.5"}), "whole number"),
        (plain({"mica.dev/vgpu-number": -1}), "whole number"),
        (plain(MICA_LIMITS, annotations={names.ANNOTATION_NODE_POLICY: "best"}), "binpack, spread"),
        (plain(MICA_LIMITS, annotations={"nvidia.com/gpumem": "3000"}), "resources.limits"),
        (plain(MICA_LIMITS, annotations={"mica.dev/vgpu-cores": "3"}), "resources.limits"),
        (plain(MICA_LIMITS, annotations={"alloc.mica.dev/c0": "x"}), "remove it"),
        (plain(MICA_LIMITS, annotations={"mica.dev/use-gpu-modell": "H100"}), "there is no annotation mica.dev/use-gpu-modell"),
        (plain(MICA_LIMITS, nodeName="n1"), "nodeSelector"),
        (plain(MICA_LIMITS, hostPID=True), "hostPID"),
        (plain(MICA_LIMITS, schedulerName="kueue"), "mica-scheduler"),
        (_env("LD_PRELOAD"), "LD_PRELOAD"),
        (_env("LD_AUDIT"), "LD_AUDIT"),
        (_env("GLIBC_TUNABLES"), "GLIBC_TUNABLES"),
        (_init(env=[{"name": "LD_PRELOAD", "value": "x"}]), "LD_PRELOAD"),
        (_init(MICA_LIMITS), "init container setup"),
        (_init(MICA_LIMITS, restartPolicy="Always"), "init container setup"),
        (_privileged(), "privileged"),
        (_capability("SYS_ADMIN"), "capability SYS_ADMIN"),
        (_capability("CAP_SYS_PTRACE"), "capability CAP_SYS_PTRACE"),
        (_capability("all"), "capability all"),
        (_init(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "container setup adds"),
        (_requests(), "requests"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_change(pod: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        mutate(pod, RULES)


def test_only_init_containers_asking_is_refused_too() -> None:
    pod = plain({"cpu": "1"}, initContainers=[{"name": "setup", "resources": {"limits": {"nvidia.com/gpu": 1}}}])
    with pytest.raises(Refused, match="init container setup"):
        mutate(pod, RULES)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda pod: pod["spec"].update(schedulerName="other-scheduler"), "other-scheduler"),
        (lambda pod: pod["metadata"]["labels"].clear(), "label"),
        (lambda pod: pod["metadata"]["annotations"].pop(names.ANNOTATION_REQUEST), "missing"),
        (lambda pod: pod["spec"]["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "1"}), "webhook"),
        (lambda pod: pod["spec"]["containers"][0].update(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]), "webhook"),
        (
            lambda pod: pod["spec"]["containers"].append({"name": "late", "resources": {"limits": {"nvidia.com/gpu": "1"}}}),
            "list",
        ),
    ],
)
def test_what_another_webhook_did_after_us_is_found_at_the_end(tamper: Any, words: str) -> None:
    pod = admit(plain(MICA_LIMITS))
    tamper(pod)
    with pytest.raises(Refused, match=words):
        validate(pod, RULES)


def test_harmless_capabilities_are_left_alone() -> None:
    admit(_capability("NET_ADMIN"))


def test_our_own_scheduler_is_accepted_whatever_the_list_says() -> None:
    pod = admit(plain(MICA_LIMITS), Rules(schedulers=frozenset({"default-scheduler"})))
    assert pod["spec"]["schedulerName"] == names.SCHEDULER_NAME


GENEROUS = Rules(compute=(ComputeRules(), ComputeRules(highest_priority="high", max_weight=1000)))
UNCAPPED = {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}


def test_hamis_priority_becomes_our_class_and_is_not_asked_for_again() -> None:
    pod = admit(plain({**UNCAPPED, "nvidia.com/priority": 0}), GENEROUS)
    assert pod["metadata"]["annotations"][names.ANNOTATION_COMPUTE_PRIORITY] == "high"
    assert mutate(pod, GENEROUS).changes == ()


def test_a_priority_on_cards_of_ones_own_is_said_to_be_needless() -> None:
    pod = plain({"nvidia.com/gpu": 1, "nvidia.com/priority": 0})
    admitted = mutate(pod, GENEROUS)
    assert admitted.warnings == ("priority high is not needed: the pod has its GPUs alone",)
    assert names.ANNOTATION_COMPUTE_PRIORITY not in applied(pod, admitted)["metadata"]["annotations"]


def test_the_knobs_of_another_limiter_are_named_in_our_words() -> None:
    pod = plain(MICA_LIMITS)
    pod["spec"]["containers"][0]["env"] = [{"name": "CUDA_TASK_PRIORITY", "value": "0"}]
    (warning,) = mutate(pod, RULES).warnings
    assert "CUDA_TASK_PRIORITY is annotation mica.dev/compute-priority here" in warning


def _two(first: int, second: int) -> dict[str, Any]:
    pod = plain({**UNCAPPED, "nvidia.com/priority": first})
    limits = {**UNCAPPED, "nvidia.com/priority": second}
    pod["spec"]["containers"].append({"name": "other", "image": "x", "resources": {"limits": limits}})
    return pod


def test_containers_of_one_class_are_a_pod_of_that_class() -> None:
    assert admit(_two(1, 1))["metadata"]["annotations"][names.ANNOTATION_COMPUTE_PRIORITY] == "low"


def _chosen(limits: dict[str, Any], **choice: str) -> dict[str, Any]:
    return plain(limits, annotations={f"mica.dev/compute-{key}": value for key, value in choice.items()})


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (_two(0, 1), "the containers choose different classes of priority"),
        (plain({**UNCAPPED, "nvidia.com/priority": 2}), "write 0"),
        (
            plain({**UNCAPPED, "nvidia.com/priority": 1}, annotations={names.ANNOTATION_COMPUTE_PRIORITY: "high"}),
            "resources choose priority low, annotation mica.dev/compute-priority high; keep one",
        ),
        (_chosen(MICA_LIMITS, priority="urgent"), "must be one of low, normal, high"),
        (_chosen(MICA_LIMITS, weight="50"), "compute-weight has no effect"),
        (_chosen({"mica.dev/vgpu-memory-1Gi": 3}, policy="strict"), "compute-policy has no effect"),
        (_chosen({"mica.dev/vgpu-number": 1}, priority="low"), "the pod has its GPUs alone"),
        (
            _chosen({"mica.dev/vgpu-memory-1Gi": 3}, priority="high", weight="2000"),
            "compute-weight is 2000, the greatest is 1000",
        ),
    ],
)
def test_a_choice_of_compute_that_cannot_hold_is_refused_with_what_to_change(pod: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        mutate(pod, GENEROUS)


def test_a_tenant_does_not_take_the_high_class_where_no_pool_gives_it() -> None:
    modest = Rules(compute=(ComputeRules(),))
    pod = _chosen(MICA_LIMITS, priority="high")
    with pytest.raises(Refused, match=r"no VGPUPool allows this choice .* the highest is normal; write less, or have"):
        mutate(pod, modest)
    admitted = admit(pod, GENEROUS)
    with pytest.raises(Refused, match="no VGPUPool allows"):
        validate(admitted, modest)
