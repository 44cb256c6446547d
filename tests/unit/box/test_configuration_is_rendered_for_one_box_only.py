from __future__ import annotations

import ast
import json
import sys
import tomllib
from pathlib import Path

import yaml

from mica_box import config
from mica_box.plan import Plan
from mica_box.spec import DaemonStatus, Spec, Status


def flags(plan: Plan, daemon: str) -> dict[str, str]:
    argv = next(d.argv for d in config.daemons(plan) if d.name == daemon)
    return dict(word.removeprefix("--").partition("=")[::2] for word in argv[1:])


def test_a_spec_survives_its_journey_into_the_box(full_plan: Plan, apiserver_plan: Plan) -> None:
    for plan in (full_plan, apiserver_plan):
        spec = config.make_spec(plan, sim_config="version=1\n")
        assert Spec.from_json(spec.to_json()) == spec


def test_a_status_survives_its_journey_out_of_the_box() -> None:
    status = Status({"etcd": DaemonStatus(pid=7, ready=True, deaths=1, exit=-9)}, failed="")
    assert Status.from_json(status.to_json()) == status


def test_containerd_has_cdi_and_keeps_its_files_below_the_box(full_plan: Plan) -> None:
    parsed = tomllib.loads(config.containerd_toml(full_plan))
    runtime = parsed["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["enable_cdi"] is True
    assert runtime["cdi_spec_dirs"] == ["/var/run/cdi"]
    assert runtime["restrict_oom_score_adj"] is True
    assert parsed["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == "localhost/pause:1"
    for path in (parsed["root"], parsed["state"], parsed["grpc"]["address"], runtime["cni"]["conf_dir"]):
        assert path.startswith(f"{full_plan.root}/")


def test_unix_sockets_fit_the_kernels_limit_for_the_longest_name() -> None:
    plan = Plan(name="a" * 32, index=0, root=Path("/var/lib/mica-boxes") / ("a" * 32))
    assert len(f"{plan.containerd_socket}.ttrpc") < 108


def test_kubelet_and_pods_stay_in_the_boxs_own_cgroup_and_addresses(full_plan: Plan) -> None:
    kubelet = yaml.safe_load(config.kubelet_yaml(full_plan))
    assert kubelet["cgroupRoot"] == f"/{full_plan.cgroup}"
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{full_plan.containerd_socket}"
    network = json.loads(config.cni_conflist(full_plan))["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
    assert network == full_plan.node_pod_network
    assert yaml.safe_load(config.kube_proxy_yaml(full_plan))["clusterCIDR"] == full_plan.pod_network


def test_the_api_server_authorizes_nodes_and_serves_the_boxs_addresses(full_plan: Plan) -> None:
    said = flags(full_plan, "kube-apiserver")
    assert said["authorization-mode"] == "Node,RBAC"
    assert "NodeRestriction" in said["enable-admission-plugins"]
    assert said["service-cluster-ip-range"] == full_plan.service_network
    assert said["advertise-address"] == full_plan.box_ip


def test_an_apiserver_only_box_has_no_node_and_touches_no_node_folder(apiserver_plan: Plan) -> None:
    names = {daemon.name for daemon in config.daemons(apiserver_plan)}
    assert names == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"}
    spec = config.make_spec(apiserver_plan, sim_config="")
    assert spec.binds == ()
    assert spec.tmpfs == ("/run",)
    assert config.config_files(apiserver_plan) == {}


def test_every_daemon_waits_only_for_daemons_that_exist_and_start_earlier(full_plan: Plan, apiserver_plan: Plan) -> None:
    for plan in (full_plan, apiserver_plan):
        earlier: set[str] = set()
        for daemon in config.daemons(plan):
            assert earlier.issuperset(daemon.after), daemon.name
            assert bool(daemon.probe.url) != bool(daemon.probe.socket), daemon.name
            earlier.add(daemon.name)


def test_every_fixed_folder_of_the_node_is_the_boxs_own(full_plan: Plan) -> None:
    spec = config.make_spec(full_plan, sim_config="version=1\n")
    own = {*spec.tmpfs, *(target for _, target in spec.binds)}
    assert own >= {"/run", "/var/lib/mica", "/var/lib/kubelet", "/var/lib/cni", "/var/log"}
    assert set(config.MOUNT_POINTS) <= own
    assert spec.files[config.SIM_CONFIG] == "version=1\n"


def test_the_init_needs_nothing_but_the_standard_library(repository: Path) -> None:
    source = repository / "hack" / "src" / "mica_box"
    allowed = {"mica_box.probe", "mica_box.spec"}
    for module in ("init", "probe", "spec"):
        for node in ast.walk(ast.parse((source / f"{module}.py").read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name in allowed or name.split(".")[0] in sys.stdlib_module_names, name
