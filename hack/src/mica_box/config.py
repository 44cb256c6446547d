"""Configuration files and command lines of the daemons in a box. Pure: a plan in, text out."""

from __future__ import annotations

import json

import yaml

from mica_box.plan import API_PORT, NODE_NAME, Mode, Plan
from mica_box.spec import Daemon, Probe, Spec

PAUSE_IMAGE = "localhost/pause:1"
CDI_DIR = "/var/run/cdi"
SIM_DIR = "/run/mica/sim"
SIM_CONFIG = f"{SIM_DIR}/config"
_ETCD = "http://127.0.0.1:2379"
_CRI = "io.containerd.cri.v1"
_KWOK_LEASE_S = 40
"""As kubelets have it: renewed four times as often, and the controllers give a silent node 50 s."""


def containerd_toml(plan: Plan) -> str:
    """containerd 2 with CDI. Everything it writes is below the box's root: plugins with paths elsewhere are off."""
    root = plan.root
    return f"""version = 3
root = "{root}/containerd"
state = "{root}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = "{plan.containerd_socket}"

[plugins.'{_CRI}.images']
  snapshotter = "overlayfs"

[plugins.'{_CRI}.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins.'{_CRI}.runtime']
  enable_cdi = true
  cdi_spec_dirs = ["{CDI_DIR}"]
  # Without CAP_SYS_RESOURCE on the host a negative oom score cannot be set, and every sandbox would fail.
  restrict_oom_score_adj = true

[plugins.'{_CRI}.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{root}/cni"

[plugins.'{_CRI}.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'{_CRI}.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def cni_conflist(plan: Plan) -> str:
    """Point-to-point links: every packet of a pod is routed, so Services work between pods of one node anywhere."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": plan.node_pod_network}]],
        "dataDir": f"{plan.root}/ipam",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "mica", "plugins": plugins}, indent=1)


def kubelet_yaml(plan: Plan) -> str:
    """kubelet for a node that shares its disk and cgroups with a host it must not disturb."""
    pki = plan.pki
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/node.crt",
            "tlsPrivateKeyFile": f"{pki}/node.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{plan.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{plan.containerd_socket}",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": f"{plan.root}/resolv.conf",
            "volumePluginDir": f"{plan.root}/volume-plugins",
        },
        sort_keys=False,
    )


def kube_proxy_yaml(plan: Plan) -> str:
    """kube-proxy on nftables; it leaves the kernel-wide connection tracking limits alone."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": f"{plan.pki}/proxy.kubeconfig"},
            "clusterCIDR": plan.pod_network,
            "hostnameOverride": NODE_NAME,
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
        sort_keys=False,
    )


def config_files(plan: Plan) -> dict[str, str]:
    """Files below the box's root, by relative path."""
    if plan.mode is Mode.APISERVER_ONLY:
        return {}
    return {
        "containerd.toml": containerd_toml(plan),
        "cni/10-mica.conflist": cni_conflist(plan),
        "kubelet.yaml": kubelet_yaml(plan),
        "kube-proxy.yaml": kube_proxy_yaml(plan),
        # No cluster DNS and no host names in pods: addresses only, the same on every machine.
        "resolv.conf": "",
    }


def _apiserver(plan: Plan) -> Daemon:
    pki = plan.pki
    flags = (
        f"--etcd-servers={_ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={plan.box_ip}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--service-cluster-ip-range={plan.service_network}",
        "--allow-privileged",
    )
    argv = ("kube-apiserver", *flags)
    return Daemon("kube-apiserver", argv, Probe(url=f"https://127.0.0.1:{API_PORT}/readyz"), after=("etcd",))


def _control_plane(plan: Plan) -> tuple[Daemon, ...]:
    pki = plan.pki
    etcd = (
        "etcd",
        f"--data-dir={plan.root}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    )
    kcm = (
        "kube-controller-manager",
        f"--kubeconfig={pki}/kcm.kubeconfig",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    )
    scheduler = (
        "kube-scheduler",
        f"--kubeconfig={pki}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    )
    after = ("kube-apiserver",)
    return (
        Daemon("etcd", etcd, Probe(url=f"{_ETCD}/readyz")),
        _apiserver(plan),
        Daemon("kube-controller-manager", kcm, Probe(url="https://127.0.0.1:10257/healthz"), after),
        Daemon("kube-scheduler", scheduler, Probe(url="https://127.0.0.1:10259/healthz"), after),
    )


def _node(plan: Plan) -> tuple[Daemon, ...]:
    kubelet = (
        "kubelet",
        f"--config={plan.root}/kubelet.yaml",
        f"--kubeconfig={plan.pki}/node.kubeconfig",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={plan.box_ip}",
    )
    proxy = ("kube-proxy", f"--config={plan.root}/kube-proxy.yaml")
    containerd = ("containerd", "--config", f"{plan.root}/containerd.toml", "--log-level", "warn")
    return (
        Daemon("containerd", containerd, Probe(socket=str(plan.containerd_socket))),
        Daemon("kubelet", kubelet, Probe(url="http://127.0.0.1:10248/healthz"), ("kube-apiserver", "containerd")),
        Daemon("kube-proxy", proxy, Probe(url="http://127.0.0.1:10256/healthz"), ("kube-apiserver", "kubelet")),
    )


def _kwok(plan: Plan) -> Daemon:
    argv = (
        "kwok",
        f"--kubeconfig={plan.pki}/kwok.kubeconfig",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--cidr={plan.kwok_pod_network}",
        f"--node-ip={plan.box_ip}",
        "--node-port=10247",
        "--server-address=127.0.0.1:10246",
        # Without it kwok never says again that a node is alive: every 50 s the controllers take readiness from all its pods.
        f"--node-lease-duration-seconds={_KWOK_LEASE_S}",
    )
    return Daemon("kwok", argv, Probe(url="http://127.0.0.1:10246/healthz"), ("kube-apiserver",))


def daemons(plan: Plan) -> tuple[Daemon, ...]:
    """The daemons of a box. kwok always runs: fake nodes can be added at any time, and it idles without them."""
    node = _node(plan) if plan.mode is Mode.FULL else ()
    return (*_control_plane(plan), *node, _kwok(plan))


def make_spec(plan: Plan, *, sim_config: str) -> Spec:
    """What the init does. The box's own /run hides the host's; what kubelet keeps at fixed paths goes below the root."""
    full = plan.mode is Mode.FULL
    root = plan.root
    node_binds = ((f"{root}/kubelet", "/var/lib/kubelet"), (f"{root}/var-log", "/var/log"))
    return Spec(
        interface="eth0",
        address=f"{plan.box_ip}/24",
        gateway=plan.host_ip,
        pki=str(plan.pki),
        logs=str(plan.logs),
        status=f"{root}/status.json",
        path=f"{plan.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        daemons=daemons(plan),
        tmpfs=("/run", "/var/lib/mica", "/var/lib/cni") if full else ("/run",),
        binds=node_binds if full else (),
        folders=("/run/lock", CDI_DIR, "/run/mica") if full else ("/run/lock",),
        files={SIM_CONFIG: sim_config, f"{SIM_DIR}/state": ""} if full else {},
        # Every container of the node, whatever its user, is a user of the simulated cards.
        world_writable=(SIM_DIR, f"{SIM_DIR}/state") if full else (),
        sysctls={"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0"},
        # kubelet insists on these values, and they are the whole kernel's: give it files of its own to look at.
        pinned_sysctls={
            "vm/overcommit_memory": "1",
            "vm/panic_on_oom": "0",
            "kernel/panic": "10",
            "kernel/panic_on_oops": "1",
            "kernel/keys/root_maxkeys": "1000000",
            "kernel/keys/root_maxbytes": "25000000",
        }
        if full
        else {},
    )


MOUNT_POINTS = ("/var/lib/kubelet", "/var/lib/mica", "/var/lib/cni")
"""Host folders that must exist for a full box to mount over; `down` removes those that it made."""
