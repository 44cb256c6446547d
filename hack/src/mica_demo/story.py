"""What the demo shows, chapter by chapter. Every line after a `$` is a command that a user can type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mica_box.box import Box
from mica_box.running import RunningBox
from mica_demo.install import NAMESPACE, helm_command
from mica_demo.shell import Shell

CHOOSERS = ("binpack-1", "binpack-2", "spread-1", "spread-2")
PODS = (*CHOOSERS, "first", "second", "third", "other-card")
_FORGED = '{"v":1,"uid":"x","node":"node1","gpus":[]}'


def tell(box: RunningBox, shell: Shell, work: Path) -> None:
    """Run all chapters; `work` is a folder for the manifests with this build's image names."""
    manifests = Manifests(box, work)
    _installed(box, shell)
    _inventory(shell)
    _choice(shell, manifests)
    _slices(shell, manifests)
    _refusals(shell, manifests)
    url = _serving(shell)
    _clean(box.box, shell, url)
    shell.headline("The cluster stays up: try it yourself")
    shell.say(f"  export KUBECONFIG={box.kubeconfig} PATH={box.box.plan.bin}:$PATH")
    shell.say("  kubectl apply -f examples/serving/inference-service.yaml")
    shell.say("  make demo-down   # removes the box and every trace of it")


class Manifests:
    """Manifests of the demo, written where the user can read them."""

    def __init__(self, box: RunningBox, work: Path) -> None:
        self._image = box.images["mica-test-gpu"]
        self._work = work
        work.mkdir(parents=True, exist_ok=True)

    def pod(
        self,
        name: str,
        command: list[str],
        *,
        cores: int,
        memory_gib: int,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Path of a pod manifest with a slice. Fake nodes are tainted, so that it runs on the real one."""
        limits = {
            "mica.dev/vgpu-number": 1,
            "mica.dev/vgpu-cores": cores,
            "mica.dev/vgpu-memory-1Gi": memory_gib,
        }
        container = {"name": "app", "image": self._image, "command": command, "resources": {"limits": limits}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                **spec,
                "containers": [container],
            },
        }
        path = self._work / f"{name}.json"
        path.write_text(json.dumps(body, indent=2))
        return str(path)


def _installed(box: RunningBox, shell: Shell) -> None:
    shell.headline("Install")
    shell.show(" ".join(helm_command(box.images)) + " | head -4")
    shell.show(f"kubectl -n {NAMESPACE} get pods")


def _inventory(shell: Shell) -> None:
    shell.headline("GPUs: two simulated ones on the real node, more on fake nodes")
    shell.wait("the pool to be counted", lambda: shell.quiet("kubectl get vgpupool default -o jsonpath={.status.nodes}") == "4")
    shell.show("kubectl get vgpunodes")
    shell.show("kubectl get vgpupools")


def _choice(shell: Shell, manifests: Manifests) -> None:
    shell.headline("Placement has a choice: fill nodes up (binpack) or spread over them, by an annotation")
    toleration = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
    fake = {"type": "kwok"}
    for name in CHOOSERS:
        annotations = {"mica.dev/node-policy": name.split("-")[0]}
        path = manifests.pod(
            name, ["true"], cores=40, memory_gib=20, annotations=annotations, tolerations=toleration, nodeSelector=fake
        )
        shell.quiet(f"kubectl apply -f {path} && kubectl wait --for=condition=PodScheduled pod/{name} --timeout=20s")
    shell.say("Four pods of 40 % and 20 GiB that tolerate the fake nodes (where nothing really runs), two of each policy:")
    columns = "NAME:.metadata.name,NODE:.spec.nodeName,DECISION:.metadata.annotations.alloc\\.mica\\.dev/c0"
    shell.show(f"kubectl get pods -o custom-columns='{columns}'")
    shell.quiet(f"kubectl delete pods {' '.join(CHOOSERS)} --now")


def _slices(shell: Shell, manifests: Manifests) -> None:
    shell.headline("A slice: 20 % of one GPU and 3 GiB of its memory")
    path = manifests.pod(
        "first",
        ["sh", "-c", "gpu-probe --fill && gpu-probe --spin 10 --kernel-us 1000 && gpu-probe --hold 3600"],
        cores=20,
        memory_gib=3,
    )
    shell.show(f"cat {path}")
    shell.show(f"kubectl apply -f {path}")
    shell.wait("the first pod to have measured its slice", lambda: shell.quiet("kubectl logs first").count("{") >= 2)
    shell.say("Inside: the memory it sees, where allocation is refused (2 = CUDA_ERROR_OUT_OF_MEMORY), its share over 10 s:")
    shell.show("kubectl logs first")
    shell.show("kubectl get pod first -o yaml | grep -E 'alloc.mica.dev|schedulerName|nodeName'")

    shell.headline("A second pod shares the card (binpack); a third does not fit, says why, and starts when the first is gone")
    shared = {"mica.dev/gpu-policy": "binpack"}
    second = manifests.pod("second", ["gpu-probe", "--hold", "3600"], cores=70, memory_gib=40, annotations=shared)
    third = manifests.pod("third", ["gpu-probe", "--hold", "3600"], cores=95, memory_gib=78)
    blocker = manifests.pod("other-card", ["gpu-probe", "--hold", "3600"], cores=100, memory_gib=80)
    shell.show(f"kubectl apply -f {second} -f {blocker}")
    shell.show("kubectl wait --for=condition=Ready pod/second pod/other-card --timeout=60s")
    shell.show(f"kubectl apply -f {third}")
    shell.wait(
        "the third pod to be refused",
        lambda: "Insufficient" in shell.quiet("kubectl get pod third -o jsonpath={.status.conditions}"),
    )
    shell.show("kubectl get pods -o wide")
    shell.show("kubectl get pod third -o jsonpath='{.status.conditions[0].message}{\"\\n\"}'")
    shell.show("kubectl delete pod first second --now")
    shell.show("kubectl wait --for=condition=Ready pod/third --timeout=60s")


def _refusals(shell: Shell, manifests: Manifests) -> None:
    shell.headline("What cannot be right is refused, in words")
    shell.show(f"kubectl annotate --overwrite pod third alloc.mica.dev/c0='{_FORGED}'", expect_failure=True)
    greedy = manifests.pod("greedy", ["true"], cores=120, memory_gib=1)
    shell.show(f"kubectl apply -f {greedy}", expect_failure=True)
    big = manifests.pod("big", ["true"], cores=10, memory_gib=500)
    shell.say("A GPU that is larger than all may still be added, so that this one waits, with a warning:")
    shell.show(f"kubectl apply -f {big}")
    shell.quiet("kubectl delete pod big --now")


def _serving(shell: Shell) -> str:
    """The URL at which the model is served."""
    shell.headline("Serve a model: eight lines")
    shell.show("kubectl delete pod third other-card --now")
    shell.show("cat examples/serving/inference-service.yaml")
    shell.show("kubectl apply -f examples/serving/inference-service.yaml")
    shell.show("kubectl wait --for=condition=Ready minf/tiny --timeout=120s")
    shell.show("kubectl get minf")
    url = shell.quiet("kubectl get minf tiny -o jsonpath={.status.url}")
    body = {"model": "tiny", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}
    head = "-H 'Content-Type: application/json'"
    shell.show(f"curl -sS {url}/chat/completions {head} -d '{json.dumps(body)}'; echo")
    streamed = json.dumps({**body, "max_tokens": 6, "stream": True})
    shell.show(f"curl -sSN {url}/chat/completions {head} -d '{streamed}'")
    shell.say(
        "The engine is real (llama.cpp); the GPU is simulated: weights and KV cache are allocated on it, one launch a token."
    )
    shell.show("kubectl get vgpunodes node1")
    agent = shell.quiet(
        f"kubectl -n {NAMESPACE} get pods -l app.kubernetes.io/component=node-agent -o jsonpath={{.items[0].metadata.name}}"
    )
    metrics = f"/api/v1/namespaces/{NAMESPACE}/pods/{agent}:8080/proxy/metrics"
    shell.show(f"kubectl get --raw {metrics} | grep -E '^mica_node_slice_(memory_used|compute_busy|throttled|launches)'")
    return url


def _clean(box: Box, shell: Shell, url: str) -> None:
    shell.headline("Delete: nothing is left")
    shell.show("kubectl delete -f examples/serving/inference-service.yaml")
    shell.wait(
        "the node to have released the slice",
        lambda: shell.quiet("kubectl get vgpunode node1 -o jsonpath={.status.slices}") in ("", "[]"),
    )
    shell.show("kubectl get vgpunodes node1")
    shell.say("Limits files, decisions and CDI specs on the node, and models that the router knows:")
    folders = "/run/mica/slices /var/lib/mica/pins /var/run/cdi"
    shell.show(f".venv/bin/python -m mica_box exec {box.name} find {folders} -mindepth 1")
    shell.show(f"curl -sS {url}/models; echo")
