"""The stand-alone router's configuration: keys of three generations of sysHAX, set and read back, or refused in words."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mica_cli.__main__ import app
from mica_cli.standalone.config import Config
from mica_cli.standalone.keys import ALIASES, BadKey, described, get_key, parse, problems, set_key
from mica_cli.standalone.store import INITIAL

FIRST_GENERATION = """
services:
  gpu: {host: "0.0.0.0", port: 8001}
  cpu: {host: "0.0.0.0", port: 8002}
  conductor: {host: "0.0.0.0", port: 8010}
models: {default: ds-32b, params: {max_tokens: 200, temperature: 0.7, test_prompt: "测试", test_tokens: 30}}
system: {max_queue_size: 200, request_timeout: 600}
decider:
  {max_num_seqs: 256, gpu_cache_threshold: 90, cpu_throughput_threshold: 10,
   token_limit_multiplier: 4, token_limit_min: 10, token_limit_max: 100}
monitor: {interval: 5}
"""
SECOND_GENERATION = """
{host: 10.0.0.9, gpu: {port: 8001}, cpu: {port: 8002}, model: m, maxtokens: 5,
 auto_pd_offload: false, cpu_max_batch_size: 50}
"""
THIRD_GENERATION = """
services:
  gpu: [{host: 10.0.0.1, port: 8001}, {host: 10.0.0.2, port: 8001}]
  cpu: [{host: 10.0.0.3, port: 8002}]
models: {default: m}
heartbeat: {interval: 10, timeout: 3.0, fail_threshold: 3}
routing:
  rules:
    - {name: short, priority: 10, conditions: {max_tokens: {lte: 64}}, action: {device: CPU}}
"""


def test_files_of_the_first_generation_are_read_as_they_are():
    config = parse(yaml.safe_load(FIRST_GENERATION))
    assert [engine.port for engine in config.services.gpu + config.services.cpu] == [8001, 8002]
    assert (config.services.conductor.port, config.models.default, config.decider.gpu_cache_threshold) == (8010, "ds-32b", 90)


def test_files_of_the_second_generation_are_read_as_they_are():
    config = parse(yaml.safe_load(SECOND_GENERATION))
    assert [(engine.host, engine.port) for engine in config.services.gpu + config.services.cpu] == [
        ("10.0.0.9", 8001),
        ("10.0.0.9", 8002),
    ]
    assert config.services.conductor.host == "10.0.0.9"
    assert (config.models.default, config.models.params.max_tokens, config.decider.cpu_max_batch_size) == ("m", 5, 50)


def test_files_of_the_third_generation_are_read_as_they_are():
    config = parse(yaml.safe_load(THIRD_GENERATION))
    assert [engine.host for engine in config.services.gpu] == ["10.0.0.1", "10.0.0.2"]
    assert [engine.host for engine in config.services.cpu] == ["10.0.0.3"]
    assert config.routing.rules[0].conditions == {"max_tokens": {"lte": 64}}


@pytest.mark.parametrize("empty", ["[]", "null", ""])
@pytest.mark.parametrize("tier", ["gpu", "cpu"])
def test_files_of_the_third_generation_may_have_one_tier_only(tier, empty):
    engines, other = "[{host: 10.0.0.1, port: 8001}, {host: 10.0.0.2, port: 8001}]", {"gpu": "cpu", "cpu": "gpu"}[tier]
    text = f"services:\n  {tier}: {empty}\n  {other}: {engines}\nmodels: {{default: m}}\nheartbeat: {{fail_threshold: 3}}\n"
    config = parse(yaml.safe_load(text))
    assert getattr(config.services, tier) == ()
    assert [engine.host for engine in getattr(config.services, other)] == ["10.0.0.1", "10.0.0.2"]
    assert parse(yaml.safe_load(f"{text}routing: {{rules: []}}")) == config


VALUES = {"services.gpu": "[{host: a, port: 1}]", "services.cpu": "[]", "services.host": "10.1.1.1", "models.default": "m"} | {
    "services.conductor.host": "::1",
    "models.params.max_tokens": "9",
    "models.params.temperature": "0.25",
    "models.params.test_prompt": "'12'",
    "decider.policy": "balance",
    "decider.auto_pd_offload": "false",
    "decider.relay": "true",
    "decider.token_limit_multiplier": "2.5",
    "decider.token_limit_min": "16",
    "decider.token_limit_max": "64",
    "routing.rules": "[{name: a, conditions: {stream: {eq: true}}, action: {device: GPU}}]",
}


@pytest.mark.parametrize("key", [key for key, _, _ in described()])
def test_every_key_that_is_listed_can_be_set_and_is_in_force(key):
    value = VALUES.get(key, "h" if key.endswith(".host") else "17")
    before = INITIAL
    if key in ("decider.cpu_throughput_threshold", "decider.relay") or "token_limit" in key:
        before = set_key(before, "decider.policy", "thresholds")
    if "token_limit" in key:
        before = set_key(before, "decider.relay", "true")
    tree = set_key(before, key, value)
    assert tree != before or key in ("services.host", "decider.auto_pd_offload")
    if key == "services.host":
        assert get_key(tree, "services.gpu.host") == get_key(tree, "services.conductor.host") == value
        return
    wanted = yaml.safe_load(value)
    found = get_key(tree, key)
    assert found == wanted or (key == "routing.rules" and found[0].items() >= wanted[0].items())


@pytest.mark.parametrize("old", sorted(ALIASES))
def test_every_old_name_sets_the_key_that_it_means(old):
    value = VALUES.get(ALIASES[old], "h" if old.endswith(".host") else "17")
    assert set_key(INITIAL, old, value) == set_key(INITIAL, ALIASES[old], value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("services.gpu.port", "010", "010 means 8 in YAML; write 8 if that is meant"),
        ("services.cpu.0.port", "1:30", "1:30 means 90 in YAML"),
        ("services.gpu.prot", "1", "there is no key services.gpu.prot"),
        ("services", "{}", "there is no key services"),
        ("services.gpu.port", "70000", "less than or equal to 65535"),
        ("services.gpu.port", "http", "valid integer (it is 'http')"),
        ("services.gpu.2.port", "5", "the list has 1 entries"),
        ("models.params.temperature", "9", "less than or equal to 2"),
        ("decider.auto_pd_offload", "true", "patched engines"),
        ("decider.token_limit_min", "50", "set decider.relay to true first, or leave it at 10"),
        ("decider.token_limit_max", "0", "greater than or equal to 1"),
        ("decider.relay", "true", "relay is for decider.policy thresholds: set that first"),
        ("routing.rules", "[{name: a, conditions: {x: {like: 1}}, action: {device: CPU}}]", "'gte', 'lte'"),
        ("routing.rules", "[{name: a, conditions: {}, action: {device: TPU}}]", "'GPU' or 'CPU'"),
        ("monitor.interval", "0", "greater than or equal to 0.1"),
        ("models.default", "[", "not valid YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_change(key, value, words):
    with pytest.raises(BadKey) as refused:
        set_key(INITIAL, key, value)
    assert words in str(refused.value)


@pytest.mark.parametrize("tier", ["gpu", "cpu"])
def test_a_tier_is_emptied_once_no_rule_chooses_between_tiers(tier):
    ruled = set_key(INITIAL, "routing.rules", VALUES["routing.rules"])
    with pytest.raises(BadKey, match=rf"routing\.rules .* while services\.{tier} is empty: add an engine there, or set"):
        set_key(ruled, f"services.{tier}", "[]")
    unruled = set_key(ruled, "routing.rules", "[]")
    assert get_key(set_key(unruled, f"services.{tier}", "[]"), f"services.{tier}") == []
    with pytest.raises(BadKey, match=r"routing\.rules choose between two tiers"):
        set_key(set_key(INITIAL, f"services.{tier}", "[]"), "routing.rules", VALUES["routing.rules"])


def test_a_list_of_engines_wants_to_know_which_one():
    two = set_key(INITIAL, "services.gpu", "[{host: a, port: 1}, {host: b, port: 2}]")
    with pytest.raises(BadKey, match=r"services\.gpu is a list of 2; say which, as in services\.gpu\.0\.port"):
        set_key(two, "gpu.port", "9")
    assert get_key(set_key(two, "services.gpu.1.port", "9"), "services.gpu") == [
        {"host": "a", "port": 1},
        {"host": "b", "port": 9},
    ]


def test_a_second_engine_is_added_to_the_file_that_init_writes():
    first = {"host": "127.0.0.1", "port": 7001}
    second = set_key(INITIAL, "services.gpu.1.port", "7003")
    assert get_key(second, "services.gpu") == [first, {"host": "127.0.0.1", "port": 7003}]
    assert get_key(set_key(INITIAL, "services.gpu.0.host", "a"), "services.gpu") == [first | {"host": "a"}]


def test_one_broken_key_does_not_keep_another_one_from_being_mended():
    broken = {"models": {"default": "m", "params": {"max_tokens": -1, "temperature": 77}}}
    mended = set_key(broken, "models.params.max_tokens", "5")
    assert [place for place, _ in problems(mended)] == ["models.params.temperature"]


def test_a_key_given_under_two_names_is_refused():
    with pytest.raises(BadKey, match=r"model and models\.default are the same key"):
        parse({"model": "a", "models": {"default": "b"}})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Config.model_fields, *ALIASES, "gpu", "cpu", "host", "port", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_a_file_holds_it_is_understood_or_refused(tree):
    found = problems(tree)
    if not found:
        assert isinstance(parse(tree), Config)
    else:
        assert all(place and text for place, text in found)


@pytest.fixture
def mica(tmp_path):
    runner = CliRunner(env={"MICA_CONFIG": str(tmp_path / "etc" / "router.yaml"), "COLUMNS": "200"})
    return lambda *args: runner.invoke(app, list(args))


def test_the_commands_of_the_published_guide_work_in_order(mica):
    assert mica("init").exit_code == 0
    for key, value in [("gpu.port", "8001"), ("cpu.port", "8002"), ("conductor.port", "8010")]:
        assert mica("config", f"services.{key}", value).exit_code == 0
    assert "models.default" in mica("check-config").stderr
    assert mica("config", "models.default", "ds-32b").exit_code == 0
    assert mica("check-config").exit_code == 0
    assert mica("interfaces").stdout.split("\n")[:3] == [
        "gpu: http://127.0.0.1:8001",
        "cpu: http://127.0.0.1:8002",
        "conductor: http://0.0.0.0:8010",
    ]
    assert mica("model").stdout == "model name: ds-32b\nmax_tokens: 200\ntemperature: 0.7\n"


@pytest.mark.parametrize(("key", "value"), [("services.gpu.port", "x"), ("system.max_queue_size", "-1"), ("--no-key", "1")])
def test_a_refused_value_leaves_the_file_as_it_was(mica, tmp_path, key, value):
    mica("init")
    before = (tmp_path / "etc" / "router.yaml").read_bytes()
    refused = mica("config", key, value)
    assert refused.exit_code == 1
    assert key.rpartition(".")[0] in refused.stderr
    assert (tmp_path / "etc" / "router.yaml").read_bytes() == before


def test_what_check_config_prints_is_a_file_that_means_the_same(mica, tmp_path):
    mica("init")
    mica("config", "models.default", "m")
    printed = yaml.safe_load(mica("check-config").stdout)
    assert parse(printed) == parse(yaml.safe_load((tmp_path / "etc" / "router.yaml").read_text()))


def test_a_file_of_another_program_is_taken_over_or_refused_as_a_whole(mica, tmp_path):
    theirs = tmp_path / "config.yaml"
    theirs.write_text(FIRST_GENERATION)
    assert mica("init", "--from", str(theirs)).exit_code == 0
    assert mica("config", "models.default").stdout == "ds-32b\n"
    theirs.write_text("{services: {gpu: {prot: 1}}}")
    refused = mica("init", "--from", str(theirs), "--force")
    assert refused.exit_code == 1
    assert "services.gpu" in refused.stderr
    assert mica("config", "models.default").stdout == "ds-32b\n"


def test_a_file_that_exists_is_not_written_over(mica):
    mica("init")
    assert "--force" in mica("init").stderr


def test_help_lists_every_key(mica):
    told = mica("config", "--help").stdout
    assert all(key in told for key, _, _ in described())
