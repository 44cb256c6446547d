"""The routes file: what it may say, and how changes are taken over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import RouteTable, ServiceKey
from mica_router.core.routing import CpuUse, DeciderUse, RequestDefaults, Routing
from mica_router.ports import RouteSourceError
from mica_router.sources.file import FileRouteSource
from mica_router.sources.routes_file import parse_routes_file

from .conftest import within

GOOD = """
models:
  - name: chat
    model: org/chat-7b
    endpoints: [http://127.0.0.1:8001, "http://[::1]:8002/", http://engine.local, http://127.0.0.1:8001]
  - {name: idle, namespace: team-a}
"""


def test_a_file_becomes_services() -> None:
    chat, idle = parse_routes_file(GOOD, created=7)
    assert chat.key == ServiceKey("default", "chat")
    assert (chat.model, chat.created) == ("org/chat-7b", 7)
    assert chat.endpoints == (Endpoint("127.0.0.1", 8001), Endpoint("::1", 8002), Endpoint("engine.local", 80))
    assert (idle.key, idle.model, idle.endpoints) == (ServiceKey("team-a", "idle"), "idle", ())


def test_json_is_accepted_too() -> None:
    (service,) = parse_routes_file('{"models": [{"name": "chat", "endpoints": []}]}', created=0)
    assert service.model == "chat"


FULL = """
models:
  - name: chat
    model: org/chat-7b
    default: true
    aliases: [gpt-4o]
    adapters: [sql]
    engines:
      - {url: "https://10.0.0.7", kind: vllm, weight: 2.5, maxInFlight: 64, revision: r1, dtype: bf16, version: "0", numerics: x}
      - {url: "http://10.0.0.8:8080", tier: cpu, kind: llamacpp}
    routing:
      policy: prefix
      timeouts: {connect: 500ms, total: 10m}
      queue: {maxRequests: 9, maxWait: 5s}
      rules:
        - {name: long, conditions: {max_tokens: {gte: 1024}}, action: {device: CPU}}
    cpu: {mode: overflow, when: {gpuKVPercent: 70}, maxOutputTokens: 32}
    defaults: {max_tokens: 200, temperature: 0.7}
    decider: {policy: predict}
    apiKeys: [%s]
""" % ("ab" * 32)


def test_a_file_says_everything_that_the_router_can_do() -> None:
    (chat,) = parse_routes_file(FULL, created=0)
    assert (chat.default, chat.aliases, chat.adapters) == (True, ("gpt-4o",), ("sql",))
    gpu, cpu = chat.engines
    assert gpu == Engine(
        endpoint=Endpoint("10.0.0.7", 443, tls=True),
        kind="vllm",
        weight=2.5,
        max_in_flight=64,
        revision="r1",
        dtype="bf16",
        version="0",
        numerics="x",
    )
    assert cpu == Engine(endpoint=Endpoint("10.0.0.8", 8080), tier="cpu", kind="llamacpp")
    routing = chat.routing
    assert (routing.policy, routing.deadlines.connect, routing.deadlines.total) == ("prefix", 0.5, 600.0)
    assert (routing.queue.max_requests, routing.queue.max_wait) == (9, 5.0)
    assert [(rule.name, rule.tier) for rule in routing.rules] == [("long", "cpu")]
    assert (routing.cpu.mode, routing.cpu.gpu_kv_percent, routing.cpu.max_output_tokens) == ("overflow", 70, 32)
    assert routing.defaults == RequestDefaults(max_tokens=200, temperature=0.7)
    assert routing.decider == DeciderUse(policy="predict")
    assert routing.api_keys == (b"\xab" * 32,)


def test_what_a_file_leaves_out_is_as_in_a_cluster() -> None:
    (service,) = parse_routes_file("models: [{name: a, routing: {retries: 1}}]", created=0)
    assert service.routing == Routing(retries=1, cpu=CpuUse(max_output_tokens=256))


def test_the_deciders_of_syshax_are_told_their_numbers() -> None:
    text = "models: [{name: a, engines: %s, decider: {policy: %s}}]"
    (one,) = parse_routes_file(text % (BOTH, "thresholds, maxNumSeqs: 8"), created=0)
    assert one.routing.decider == DeciderUse(policy="thresholds", max_num_seqs=8)
    (two,) = parse_routes_file(text % (BOTH, "balance, cpuMaxBatchSize: 3"), created=0)
    assert two.routing.decider == DeciderUse(policy="balance", cpu_max_batch_size=3)


BOTH = "[{url: 'http://y'}, {url: 'http://z', tier: cpu}]"
RULES = "rules: [{name: long, conditions: {max_tokens: {gte: 1024}}, action: {device: CPU}}]"
RULES_IN_VAIN = "routing.rules choose between two tiers: list engines with tier: gpu and with tier: cpu, or remove routing.rules"
IN_VAIN = [
    (f"endpoints: ['http://y'], routing: {{{RULES}}}", RULES_IN_VAIN),
    (f"engines: [{{url: 'http://y'}}, {{url: 'http://z'}}], routing: {{{RULES}}}", RULES_IN_VAIN),
    (f"engines: [{{url: 'http://y', tier: cpu}}], routing: {{{RULES}}}", RULES_IN_VAIN),
    ("engines: [{url: 'http://y'}], cpu: {}", "list one in engines with tier: cpu"),
    ("endpoints: ['http://y'], cpu: {mode: standby}", "list one in engines with tier: cpu"),
    ("endpoints: ['http://y'], decider: {policy: thresholds}", "thresholds divides requests between two tiers"),
    ("engines: [{url: 'http://y', tier: cpu}], decider: {policy: balance}", "balance divides requests between two tiers"),
    (
        f"engines: {BOTH}, decider: {{policy: thresholds}}, cpu: {{when: {{gpuKVPercent: 80}}, maxOutputTokens: 9}}",
        "cpu.maxOutputTokens, cpu.when would do nothing, because decider.policy thresholds decides without it",
    ),
    (f"engines: {BOTH}, decider: {{policy: balance}}, cpu: {{mode: standby}}", "cpu.mode would do nothing"),
    (f"engines: {BOTH}, cpu: {{mode: standby, maxOutputTokens: 9}}", "cpu.maxOutputTokens would do nothing, because in mode"),
    (f"engines: {BOTH}, cpu: {{mode: standby, when: {{gpuWaiting: 2}}}}", "cpu.when would do nothing, because in mode standby"),
    ("routing: {policy: p2c, sessionHeader: x-user}", "routing.sessionHeader is for policies auto and session, not p2c"),
]


@pytest.mark.parametrize(("keys", "words"), IN_VAIN)
def test_a_key_that_would_do_nothing_beside_others_is_refused(keys: str, words: str) -> None:
    with pytest.raises(RouteSourceError) as refused:
        parse_routes_file(f"models: [{{name: a, {keys}}}]", created=0)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        f"engines: {BOTH}, cpu: {{mode: standby, when: {{noGPUReady: true}}}}",
        f"engines: {BOTH}, cpu: {{mode: overflow}}, decider: {{policy: thresholds}}",
        "engines: [{url: 'http://y', tier: cpu}], cpu: {when: {noGPUReady: false}}",
        "cpu: {mode: standby}",
        "routing: {sessionHeader: x-user}",
        f"engines: {BOTH}, routing: {{{RULES}}}",
        f"engines: [], routing: {{{RULES}}}",
        "endpoints: ['http://y'], routing: {rules: []}",
    ],
)
def test_a_key_that_does_something_is_taken(keys: str) -> None:
    assert parse_routes_file(f"models: [{{name: a, {keys}}}]", created=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [{name: a, endpoints: ['http://x'], engines: [{url: 'http://y'}]}]", "endpoints and engines are both given"),
        ("models: [{name: a, engines: [{url: 'http://y'}, {url: 'http://y:80'}]}]", "engine y:80 is listed more than once"),
        ("models: [{name: a, engines: [{url: 'http://y', tier: npu}]}]", "models.0.engines.0.tier"),
        ("models: [{name: a, engines: [{url: 'http://y', max_in_flight: 2}]}]", "models.0.engines.0.max_in_flight: Extra"),
        ("models: [{name: a, routing: {polic: p2c}}]", "models.0.routing.polic: Extra"),
        ("models: [{name: a, routing: {hedgeAfter: soon}}]", "models.0.routing.hedgeAfter"),
        ("models: [{name: a, routing: {apiKeySecretRef: {name: s}}}]", "list sha256 digests of the keys in apiKeys"),
        ("models: [{name: a, cpu: {mode: relay}}]", "cpu.mode relay needs an engine of each tier with kind: vllm"),
        (
            "models: [{name: a, cpu: {mode: relay}, engines: [{url: 'http://y', kind: vllm, revision: r1}, "
            "{url: 'http://z', tier: cpu, kind: vllm, revision: r2}]}]",
            "cpu.mode relay needs an engine of each tier with kind: vllm and the same revision",
        ),
        ("models: [{name: a, cpu: {mode: relay}, routing: {resumeMidStream: false}}]", "remove routing.resumeMidStream"),
        ("models: [{name: a, cpu: {mode: relay}, decider: {policy: balance}}]", "decider.policy balance does not relay"),
        ("models: [{name: a, cpu: {relayAfterTokens: 32}}]", "cpu.relayAfterTokens is for cpu.mode relay"),
        ("models: [{name: a, decider: {policy: thresholds, tokenLimitMax: 50}}]", "bound the hops of cpu.mode relay"),
        ("models: [{name: a, decider: {policy: thresholds, tokenLimitMin: 500}}]", "tokenLimitMin is above tokenLimitMax"),
        ("models: [{name: a, cpu: {relayAfterTokens: 0}}]", "models.0.cpu.relayAfterTokens"),
        ("models: [{name: a, decider: {policy: thresholds, tokenLimitMin: 0}}]", "models.0.decider.thresholds.tokenLimitMin"),
        ("models: [{name: a, cpu: {cores: 4}}]", "models.0.cpu.cores: Extra"),
        ("models: [{name: a, decider: {policy: balance, maxNumSeqs: 3}}]", "models.0.decider.balance.maxNumSeqs: Extra"),
        ("models: [{name: a, decider: {policy: luck}}]", "models.0.decider"),
        ("models: [{name: a, apiKeys: [secret]}]", "models.0.apiKeys.0"),
        ("models: [{name: a, defaults: {top_p: 1}}]", "models.0.defaults.top_p: Extra"),
        ("models: [{name: a, default: true}, {name: b, default: true}]", "more than one model has default: true"),
        ("models: [{name: a, aliases: [b]}, {name: b}]", "model b is listed more than once"),
        ("models: [", "not valid YAML"),
        ("", "file:"),
        ("[]", "file:"),
        ("modles: []", "modles"),
        ("models: [{}]", "models.0.name: Field required"),
        ("models: [{name: Chat}]", "models.0.name"),
        ("models: [{name: 7}]", "models.0.name"),
        ("models: [{name: a, weight: 3}]", "models.0.weight: Extra inputs"),
        ("models: [{name: a, endpoints: ['127.0.0.1:80']}]", "models.0.endpoints.0: must start with http://"),
        ("models: [{name: a, endpoints: ['ftp://x']}]", "must start with http://"),
        ("models: [{name: a, endpoints: ['http://x/v1']}]", "must be http[s]://HOST:PORT and nothing more"),
        ("models: [{name: a, endpoints: ['http://u:p@x']}]", "must be http[s]://HOST:PORT and nothing more"),
        ("models: [{name: a, endpoints: ['http://x:99999']}]", "models.0.endpoints.0"),
        ("models: [{name: a, endpoints: ['http://x:0']}]", "port 0"),
        ("models: [{name: a}, {name: a}]", "service default/a is listed more than once"),
        ("models: [{name: a, model: m}, {name: b, model: m}]", "model m is listed more than once"),
        ("models: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, words: str) -> None:
    with pytest.raises(RouteSourceError) as refused:
        parse_routes_file(text, created=0)
    assert words in str(refused.value)


class Watched:
    """A file source that looks again whenever the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.published: asyncio.Queue[RouteTable] = asyncio.Queue()
        self._looked: asyncio.Queue[None] = asyncio.Queue()
        self._look: asyncio.Queue[None] = asyncio.Queue()
        self.source = FileRouteSource(path, wait=self._wait)

    async def _wait(self) -> None:
        self._looked.put_nowait(None)
        await self._look.get()

    async def idle(self) -> None:
        await within(self._looked.get())

    async def look(self) -> None:
        self._look.put_nowait(None)
        await self.idle()

    def names(self) -> list[str]:
        return [route.public_name for route in self.published.get_nowait().listed]


async def test_changes_are_published_and_bad_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("models: [{name: one}]")
    watched = Watched(path)
    task = asyncio.ensure_future(watched.source.run(watched.published.put_nowait))
    await watched.idle()
    assert watched.names() == ["one"]
    await watched.look()
    assert watched.published.empty()
    path.write_text("models: [{nam: two}]")
    await watched.look()
    assert watched.published.empty()
    path.unlink()
    await watched.look()
    assert watched.published.empty()
    path.write_text("models: [{name: two}]")
    await watched.look()
    assert watched.names() == ["two"]
    task.cancel()


async def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"models: [{{name: {name}}}]")
    link = tmp_path / "routes.yaml"
    link.symlink_to("one")
    watched = Watched(link)
    task = asyncio.ensure_future(watched.source.run(watched.published.put_nowait))
    await watched.idle()
    assert watched.names() == ["one"]
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)
    await watched.look()
    assert watched.names() == ["two"]
    task.cancel()


@pytest.mark.parametrize("content", [None, "models: 7", b"\xff\xfe"])
async def test_a_bad_file_at_the_start_ends_the_source(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "routes.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    watched = Watched(path)
    with pytest.raises(RouteSourceError, match=r"routes\.yaml"):
        await within(watched.source.run(watched.published.put_nowait))


def test_an_engine_behind_https_is_asked_over_tls() -> None:
    (service,) = parse_routes_file("models: [{name: a, endpoints: ['https://x', 'http://x', 'https://y:8443']}]", created=0)
    assert service.endpoints == (Endpoint("x", 443, True), Endpoint("x", 80), Endpoint("y", 8443, True))


def test_a_host_that_no_head_can_name_is_refused_with_its_ascii_name() -> None:
    with pytest.raises(RouteSourceError, match="xn--bcher-kva"):
        parse_routes_file("models: [{name: a, endpoints: ['http://bücher:80']}]", created=0)
