"""The configuration file as routes and settings: every key arrives, and the router takes what is written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_cli.standalone.convert import idle_keys, no_relay, routes_of, settings_of
from mica_cli.standalone.demo import demo_routes
from mica_cli.standalone.keys import BadKey, parse
from mica_cli.standalone.start import private_file
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service
from mica_router.core.routing import DeciderUse, RequestDefaults
from mica_router.core.syshax import ThresholdDecider, decider_of
from mica_router.settings import RouterSettings
from mica_router.sources.routes_file import parse_routes_file

BASE: dict[str, Any] = {"models": {"default": "Org/Chat-7B"}}


def service(tree: dict[str, Any], **how: Any) -> Service:
    """What the router makes of a configuration."""
    routes = routes_of(parse(BASE | tree), kinds=how.pop("kinds", {}), **how)
    (found,) = parse_routes_file(yaml.safe_dump(routes), created=0)
    return found


def test_a_file_with_nothing_but_the_model_is_routed() -> None:
    found = service({})
    assert (found.key.name, found.model, found.default) == ("org-chat-7b", "Org/Chat-7B", True)
    gpu, cpu = found.engines
    assert gpu == Engine(endpoint=Endpoint("127.0.0.1", 7001), kind="vllm", max_in_flight=256)
    assert cpu == Engine(endpoint=Endpoint("127.0.0.1", 7002), tier="cpu", kind="vllm", max_in_flight=20)
    assert found.routing.deadlines.total == 600
    assert (found.routing.queue.max_requests, found.routing.queue.max_wait) == (200, 600)
    assert found.routing.cpu.max_output_tokens == 0
    assert found.routing.decider == DeciderUse(policy="predict")
    assert found.routing.defaults == RequestDefaults()


def test_engines_are_of_the_kind_that_they_say_and_those_of_other_models_are_left_out() -> None:
    services = {"gpu": [{"host": "g", "port": 1}, {"host": "::1", "port": 2}], "cpu": []}
    found = service({"services": services}, kinds={"http://g:1": "llamacpp"}, without=["http://[::1]:2"])
    assert [(engine.endpoint.authority, engine.kind) for engine in found.engines] == [("g:1", "llamacpp")]


@pytest.mark.parametrize(
    ("decider", "use", "rooms"),
    [
        ({"max_num_seqs": 8}, DeciderUse(policy="predict"), (8, 4)),
        (
            {"policy": "thresholds", "max_num_seqs": 8, "gpu_cache_threshold": 70.5, "cpu_throughput_threshold": 3.0},
            DeciderUse(policy="thresholds", max_num_seqs=8, gpu_cache_threshold=70.5, cpu_throughput_threshold=3.0),
            (8, 8),
        ),
        ({"policy": "balance", "cpu_max_batch_size": 6}, DeciderUse(policy="balance", cpu_max_batch_size=6), (256, 3)),
    ],
)
def test_each_decider_gets_its_numbers_and_the_cpu_tier_shares_its_bound(
    decider: dict[str, Any], use: DeciderUse, rooms: tuple[int, int]
) -> None:
    services = {"cpu": [{"host": "c", "port": 1}, {"host": "c", "port": 2}]}
    batch = {} if "policy" in decider else {"cpu_max_batch_size": 9}
    found = service({"services": services, "decider": decider | batch})
    assert found.routing.decider == use
    assert (found.engines[0].max_in_flight, found.engines[1].max_in_flight) == rooms


def test_every_other_key_arrives() -> None:
    found = service(
        {
            "models": {"default": "m", "params": {"max_tokens": 9, "temperature": 0.25}},
            "system": {"request_timeout": 1.5, "max_queue_size": 7},
            "decider": {"gpu_cache_threshold": 70},
            "routing": {
                "rules": [
                    {"name": "a", "conditions": {"max_tokens": {"lte": 64}}, "action": {"device": "CPU"}},
                    {"name": "b", "priority": 2, "conditions": {"tools": {"exists": True}}, "action": {"device": "GPU"}},
                ]
            },
        }
    )
    assert found.routing.defaults == RequestDefaults(max_tokens=9, temperature=0.25)
    assert (found.routing.deadlines.total, found.routing.queue.max_requests, found.routing.queue.max_wait) == (1.5, 7, 1.5)
    assert found.routing.cpu.gpu_kv_percent == 70
    assert [(rule.name, rule.tier) for rule in found.routing.rules] == [("b", "gpu"), ("a", "cpu")]


def test_intervals_become_settings_that_the_router_knows() -> None:
    tree = {"heartbeat": {"interval": 2.5, "timeout": 1.0, "fail_threshold": 4}, "monitor": {"interval": 7.0}}
    settings = settings_of(parse(BASE | tree), ratio=3.5)
    fields = {name.removeprefix("MICA_").lower(): value for name, value in settings.items()}
    found = RouterSettings.model_validate(fields | {"routes": "file", "routes_file": "/r"})
    assert (found.probe_interval, found.probe_timeout, found.probe_failures) == (2.5, 1.0, 4)
    assert (found.scrape_interval, found.performance_ratio) == (7.0, 3.5)
    assert found.stale_metrics() == 21.0
    assert "MICA_PERFORMANCE_RATIO" not in settings_of(parse(BASE), ratio=None)


@pytest.mark.parametrize(
    ("decider", "words"),
    [
        ({"token_limit_min": 20}, "token_limit_min is about hops between tiers: set decider.relay to true"),
        ({"token_limit_multiplier": 2.0, "policy": "thresholds"}, "leave it at 4"),
        ({"relay": True}, "relay is for decider.policy thresholds"),
        ({"relay": True, "policy": "thresholds", "token_limit_min": 101}, r"above token_limit_max \(101 > 100\)"),
        ({"cpu_throughput_threshold": 20.0}, "is for decider.policy thresholds"),
        ({"cpu_max_batch_size": 5, "policy": "thresholds"}, "is for decider.policy predict and balance"),
        ({"gpu_cache_threshold": 50.0, "policy": "balance"}, "is for decider.policy predict and thresholds"),
        ({"gpu_cache_threshold": 50.5}, "whole number"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(decider: dict[str, Any], words: str) -> None:
    with pytest.raises(BadKey, match=words):
        parse(BASE | {"decider": decider})


RELAY = {
    "policy": "thresholds",
    "relay": True,
    "token_limit_multiplier": 2.5,
    "token_limit_min": 16,
    "token_limit_max": 48,
}


def test_token_limits_become_hops_that_the_router_makes() -> None:
    found = service({"decider": RELAY})
    assert (found.routing.cpu.mode, found.routing.cpu.relay_after) == ("relay", 16)
    use = DeciderUse(policy="thresholds", token_limit_multiplier=2.5, token_limit_min=16, token_limit_max=48)
    assert found.routing.decider == use
    decider = decider_of(use)
    assert isinstance(decider, ThresholdDecider)
    assert [decider.token_limit(tps) for tps in (1.0, 12.0, 100.0)] == [16, 30, 48]
    assert service({"decider": {"policy": "thresholds"}}).routing.cpu.mode == "overflow"


def test_hops_that_cannot_be_are_refused_in_words() -> None:
    config = parse(BASE | {"decider": RELAY})
    assert no_relay(config, kinds={}) is None
    assert no_relay(parse(BASE), kinds={"http://127.0.0.1:7002": "llamacpp"}) is None
    llama = no_relay(config, kinds={"http://127.0.0.1:7002": "llamacpp"})
    assert llama is not None
    assert "cpu: http://127.0.0.1:7002 is llamacpp" in llama
    assert "set decider.relay to false" in llama
    gone = no_relay(config, kinds={}, without=["http://127.0.0.1:7001"])
    assert gone is not None
    assert "gpu: none serves the model" in gone
    with pytest.raises(BadKey, match=r"decider\.relay does nothing while services\.cpu is empty: add an engine there"):
        parse(BASE | {"decider": RELAY, "services": {"cpu": []}})


@pytest.mark.parametrize(
    ("absent", "decider", "words"),
    [
        ("cpu", {"policy": "thresholds"}, "decider.policy does nothing while services.cpu is empty: .* set it to predict"),
        ("gpu", {"policy": "balance"}, "decider.policy does nothing while services.gpu is empty"),
        ("cpu", {"gpu_cache_threshold": 50.0}, "decider.gpu_cache_threshold does nothing .* set it to 90.0"),
        ("cpu", {"cpu_max_batch_size": 50}, "decider.cpu_max_batch_size does nothing .* set it to 20"),
    ],
)
def test_what_divides_requests_is_refused_where_there_is_one_tier(absent: str, decider: dict[str, Any], words: str) -> None:
    with pytest.raises(BadKey, match=words):
        parse(BASE | {"services": {absent: []}, "decider": decider})


def test_engines_of_one_tier_are_bounded_as_the_file_says() -> None:
    (cpu,) = service({"services": {"gpu": []}, "decider": {"cpu_max_batch_size": 5}}).engines
    (gpu,) = service({"services": {"cpu": []}, "decider": {"max_num_seqs": 7}}).engines
    assert (cpu.max_in_flight, gpu.max_in_flight) == (5, 7)


@pytest.mark.parametrize("policy", ["predict", "thresholds", "balance"])
@pytest.mark.parametrize("left_out", ["http://127.0.0.1:7001", "http://127.0.0.1:7002"])
def test_a_tier_that_serves_another_model_today_does_not_keep_the_router_from_starting(policy: str, left_out: str) -> None:
    rule = {"name": "a", "conditions": {"max_tokens": {"lte": 64}}, "action": {"device": "CPU"}}
    found = service({"decider": {"policy": policy}, "routing": {"rules": [rule]}}, without=[left_out])
    assert len(found.engines) == 1
    assert (found.routing.decider, found.routing.rules) == (None, ())


@pytest.mark.parametrize(
    ("more", "without", "words"),
    [
        ({}, [], None),
        ({}, ["http://127.0.0.1:7001"], "decider.* divide requests between two tiers and are not in force"),
        (
            {"routing": {"rules": [{"name": "a", "conditions": {"max_tokens": {"lte": 64}}, "action": {"device": "CPU"}}]}},
            ["http://127.0.0.1:7002"],
            "decider.* and routing.rules divide requests between two tiers and are not in force",
        ),
        ({"services": {"cpu": []}}, ["http://127.0.0.1:7001"], None),
    ],
)
def test_keys_that_do_nothing_today_are_named(more: dict[str, Any], without: list[str], words: str | None) -> None:
    said = idle_keys(parse(BASE | more), without=without)
    assert said is None if words is None else said is not None and said.startswith(words)


def test_rules_that_the_router_would_not_take_are_refused_when_the_file_is_checked() -> None:
    rule = {"name": "x" * 64, "conditions": {"a": {"eq": 1}}, "action": {"device": "CPU"}}
    with pytest.raises(BadKey, match="name: String should have at most 63"):
        parse(BASE | {"routing": {"rules": [rule]}})


def test_routes_are_handed_over_in_a_file_of_no_directory() -> None:
    path = private_file(demo_routes({"gpu": "http://127.0.0.1:1", "cpu": "http://127.0.0.1:2"}))
    (found,) = parse_routes_file(Path(path).read_text(), created=0)
    gpu, cpu = found.engines
    assert cpu.continues(gpu)
    assert gpu.continues(cpu)
