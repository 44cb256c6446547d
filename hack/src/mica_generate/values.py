"""Values of the chart as a model; `values.schema.json` comes from it, so that helm refuses a misspelt or wrong value."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Text = Annotated[str, Field(max_length=512)]
Resources = dict[Literal["limits", "requests"], dict[str, str | int]]


class _Values(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Image(_Values):
    """Image of Mica's own components."""

    repository: Text
    tag: Text
    pull_policy: Literal["Always", "IfNotPresent", "Never"]


class EnvVar(_Values):
    """Literal environment variable."""

    name: Text
    value: Text


class Component(_Values):
    """What every component takes."""

    resources: Resources
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]
    extra_env: list[EnvVar]


class Scheduler(Component):
    """Extender and stock kube-scheduler, in one pod."""

    image: Text
    replicas: Annotated[int, Field(ge=1, le=9)]
    percentage_of_nodes_to_score: Annotated[int, Field(ge=0, le=100)]
    scheduler_resources: Resources


class NodeAgent(Component):
    """The device plugin on every GPU node."""

    library_dir: Annotated[str, Field(pattern="^/")]
    cdi_dir: Annotated[str, Field(pattern="^/", alias="cdiDir")]
    kubelet_dir: Annotated[str, Field(pattern="^/")]
    arbiter_resources: Resources


class RouterService(_Values):
    """Service in front of the router."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    port: Annotated[int, Field(ge=1, le=65535)]


class RouterTls(_Values):
    """TLS towards clients."""

    secret_name: Text


class Router(Component):
    """The OpenAI-compatible data plane."""

    replicas: Annotated[int, Field(ge=1, le=99)]
    workers: Annotated[int, Field(ge=1, le=64)]
    drain_seconds: Annotated[int, Field(ge=0, le=3600)]
    max_buffered_bytes: Annotated[int, Field(ge=33 * 2**20, le=2**36)]
    resume_total_bytes: Annotated[int, Field(ge=0, le=2**36)]
    tls: RouterTls
    service: RouterService


class EngineImage(_Values):
    """Image of one engine type."""

    image: Text


class Engines(_Values):
    """Images of the engine types."""

    llamacpp: EngineImage
    vllm: EngineImage


class Crds(_Values):
    """CustomResourceDefinitions."""

    enabled: bool


class SimulatedGPUs(_Values):
    """Simulated GPUs on the nodes of the node agent."""

    enabled: bool
    config: str


class Admission(_Values):
    """The webhook."""

    excluded_namespaces: list[Text]


class Values(_Values):
    """values.yaml."""

    image: Image
    image_pull_secrets: list[dict[Literal["name"], str]]
    log_level: Literal["debug", "info", "warning", "error"]
    crds: Crds
    operator: Component
    scheduler: Scheduler
    admission: Admission
    node_agent: NodeAgent
    simulated_gpus: Annotated[SimulatedGPUs, Field(alias="simulatedGPUs")]
    router: Router
    engines: Engines
    global_: Annotated[dict[str, Any], Field(alias="global", default={})]
