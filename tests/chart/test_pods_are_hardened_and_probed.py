from __future__ import annotations

from typing import Any

Body = dict[str, Any]
AGENT = "DaemonSet/mica-node-agent"
OURS = {"Deployment/mica-operator", "Deployment/mica-router", "Deployment/mica-scheduler", AGENT}


def test_all_components_are_there(pods: dict[str, Body]) -> None:
    assert pods.keys() == OURS


ARBITER = "DaemonSet/mica-node-agent/arbiter"


def serving(containers: dict[str, Body]) -> dict[str, Body]:
    """Those that answer HTTP: all but the arbiter."""
    return {name: container for name, container in containers.items() if name != ARBITER}


def test_the_arbiter_is_alive_while_its_page_is_kept_and_may_use_what_time_it_needs(containers: dict[str, Body]) -> None:
    arbiter = containers[ARBITER]
    page = arbiter["command"][arbiter["command"].index("--page") + 1]
    assert arbiter["livenessProbe"]["exec"]["command"] == [arbiter["command"][0], "--check", page]
    assert "cpu" not in arbiter["resources"]["limits"]


def test_every_serving_container_has_its_three_probes(containers: dict[str, Body]) -> None:
    for name, container in serving(containers).items():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert "httpGet" in container[probe], (name, probe)


def test_ready_and_alive_are_different_questions(containers: dict[str, Body]) -> None:
    for name, container in serving(containers).items():
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez", name
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name


def test_no_container_can_gain_anything(containers: dict[str, Body]) -> None:
    for name, container in containers.items():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in security, name


def test_only_the_node_agent_is_root(pods: dict[str, Body]) -> None:
    for name, pod in pods.items():
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["securityContext"]["runAsUser"] == (0 if name == AGENT else 65532), name
        assert pod["securityContext"]["runAsNonRoot"] is (name != AGENT), name


def test_only_the_node_agent_touches_the_host(pods: dict[str, Body]) -> None:
    for name, pod in pods.items():
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        host_paths = [v["hostPath"]["path"] for v in pod.get("volumes", []) if "hostPath" in v]
        expected = [
            "/var/lib/kubelet/device-plugins",
            "/var/lib/kubelet/pod-resources",
            "/var/lib/mica",
            "/run/mica",
            "/var/run/cdi",
        ]
        assert host_paths == (expected if name == AGENT else []), name


def test_host_paths_are_mounted_where_they_are(pods: dict[str, Body]) -> None:
    """The kubelet and the runtime resolve the agent's paths on the host."""
    agent, _ = pods[AGENT]["containers"]
    paths = {v["name"]: v["hostPath"]["path"] for v in pods[AGENT]["volumes"] if "hostPath" in v}
    mounts = {m["name"]: m["mountPath"] for m in agent["volumeMounts"] if m["name"] in paths}
    assert mounts == paths


def test_service_variables_do_not_reach_our_settings(pods: dict[str, Body]) -> None:
    """The Service mica-router would be MICA_ROUTER_PORT in the environment, and unknown MICA_ variables end the process."""
    for name, pod in pods.items():
        assert pod["enableServiceLinks"] is False, name


def test_processes_are_given_little_time_to_end(pods: dict[str, Body]) -> None:
    for name, pod in pods.items():
        if name != "Deployment/mica-router":
            assert pod["terminationGracePeriodSeconds"] <= 10, name


def test_the_router_is_given_the_time_that_its_streams_are(pods: dict[str, Body], containers: dict[str, Body]) -> None:
    environment = {variable["name"]: variable["value"] for variable in containers["Deployment/mica-router/router"]["env"]}
    pause = containers["Deployment/mica-router/router"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pods["Deployment/mica-router"]["terminationGracePeriodSeconds"]
    assert grace >= pause + int(environment["MICA_DRAIN_TIMEOUT"]) + 2


def test_servers_go_on_serving_until_nobody_sends_to_them_any_more(pods: dict[str, Body]) -> None:
    for name, server in (("Deployment/mica-router", "router"), ("Deployment/mica-scheduler", "extender")):
        (container,) = [c for c in pods[name]["containers"] if c["name"] == server]
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause >= 3, name
        assert pause + 2 < pods[name]["terminationGracePeriodSeconds"], name


def test_secrets_are_readable_by_the_group_only(pods: dict[str, Body]) -> None:
    for name, pod in pods.items():
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, name
                assert pod["securityContext"]["fsGroup"] == 65532, name


def test_the_agent_stays_off_nodes_that_are_not_real(pods: dict[str, Body]) -> None:
    affinity = pods[AGENT]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = affinity["nodeSelectorTerms"]
    assert {"key": "type", "operator": "NotIn", "values": ["kwok", "virtual-kubelet"]} in term["matchExpressions"]


def test_settings_of_our_containers_exist(containers: dict[str, Body]) -> None:
    """A variable that no settings class has would end the process at its start."""
    from mica_device_plugin.settings import AgentSettings
    from mica_extender.settings import ExtenderSettings
    from mica_operator.settings import OperatorSettings
    from mica_router.settings import RouterSettings

    classes = {
        "DaemonSet/mica-node-agent/node-agent": AgentSettings,
        "Deployment/mica-operator/operator": OperatorSettings,
        "Deployment/mica-router/router": RouterSettings,
        "Deployment/mica-scheduler/extender": ExtenderSettings,
    }
    for name, settings in classes.items():
        known = {f"MICA_{field}".upper() for field in settings.model_fields}
        assert {variable["name"] for variable in containers[name]["env"]} <= known, name
