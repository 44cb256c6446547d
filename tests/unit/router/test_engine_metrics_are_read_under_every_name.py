"""The numbers of engines: names old and new, what follows from totals, and hostile text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engine_metrics import ALIASES, MetricsError, Reading, gauges, learn, parse_metrics
from mica_router.core.rates import Rates

VLLM_NOW = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/a {b} \\"c\\""} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.42
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 5000.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 30.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 20.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="m"} 4000.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 49.5
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 4950.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 5.0
vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 50.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="2000"} 1.0
"""
VLLM_OLD = b"""\
vllm:num_requests_running{model_name="m"} 7.0
vllm:num_requests_swapped{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.93
vllm:cpu_cache_usage_perc{model_name="m"} 0.11
vllm:avg_prompt_throughput_toks_per_s{model_name="m"} 120.5
vllm:avg_generation_throughput_toks_per_s{model_name="m"} 33.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 10
vllm:time_per_output_token_seconds_count{model_name="m"} 400
"""
LLAMACPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 800
llamacpp:prompt_seconds_total 4
llamacpp:tokens_predicted_total 600
llamacpp:tokens_predicted_seconds_total 30
llamacpp:requests_processing 2
llamacpp:requests_deferred 5
"""


def test_current_vllm_is_understood() -> None:
    reading = parse_metrics(VLLM_NOW)
    assert (reading.running, reading.waiting, reading.kv_used) == (3, 2, 0.42)
    assert reading.answers_total == 50
    assert reading.swapped is None and reading.generation_tps is None


def test_old_vllm_is_understood() -> None:
    found = gauges(parse_metrics(VLLM_OLD), None, seconds=0)
    assert (found.running, found.waiting, found.swapped, found.kv_percent) == (7, 0, 1, 93)
    assert (found.prompt_rate, found.generation_rate) == (120.5, 33.0)


def test_llamacpp_is_understood_and_its_unknown_cache_is_not_empty() -> None:
    found = gauges(parse_metrics(LLAMACPP), None, seconds=0)
    assert (found.running, found.waiting, found.kv_percent) == (2, 5, None)


@pytest.mark.parametrize("field", sorted(ALIASES))
def test_every_name_of_a_number_is_read_and_the_current_one_wins(field: str) -> None:
    for name in ALIASES[field]:
        assert getattr(parse_metrics(f"{name} 0.5\n".encode()), field) == 0.5
    lines = [f"{name} 0.{index + 1}" for index, name in enumerate(ALIASES[field])]
    assert getattr(parse_metrics("\n".join(reversed(lines)).encode()), field) == 0.1


def test_ranks_are_summed_and_fractions_averaged() -> None:
    text = b'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3\n'
    text += b'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.6\n'
    reading = parse_metrics(text)
    assert reading.running == 5 and reading.kv_used == pytest.approx(0.4)


def test_speeds_follow_from_totals() -> None:
    before, now = Reading(generated_total=100, prompt_total=10), Reading(generated_total=180, prompt_total=30)
    found = gauges(now, before, seconds=2)
    assert (found.generation_rate, found.prompt_rate) == (40, 10)
    assert gauges(before, now, seconds=2).generation_rate is None, "the engine was restarted"
    assert gauges(now, None, seconds=0).generation_rate is None


def test_rates_are_learned_from_what_happened_in_between() -> None:
    rates = Rates()
    before = Reading(
        running=4,
        token_gaps=100,
        token_seconds=1,
        prompt_total=0,
        prefill_seconds=0,
        prefills=0,
        answers_total=0,
        generated_total=0,
    )
    now = Reading(
        running=4,
        token_gaps=300,
        token_seconds=5,
        prompt_total=900,
        prefill_seconds=0.3,
        prefills=3,
        answers_total=2,
        generated_total=64,
    )
    learn(rates, now, before)
    assert rates.decode.at(4) == pytest.approx(0.02)
    assert rates.prefill.at(300) == pytest.approx(0.1)
    assert rates.expected_output(None) == 32 and rates.expected_output(10) == 10


def test_an_engine_that_was_restarted_teaches_nothing() -> None:
    rates = Rates()
    learn(
        rates, parse_metrics(LLAMACPP), Reading(token_gaps=10**6, token_seconds=10**6, prompt_total=10**6, prefill_seconds=10**6)
    )
    assert rates.decode.at(1) is None and rates.prefill.at(1) is None


@pytest.mark.parametrize(
    "text", [b"", b"go_goroutines 7\n", b"<html>vllm:num_requests_running 3</html>", b"# vllm:num_requests_running 3"]
)
def test_text_of_no_engine_is_refused(text: bytes) -> None:
    with pytest.raises(MetricsError, match="no number of a known engine"):
        parse_metrics(text)


def test_too_many_series_are_refused() -> None:
    with pytest.raises(MetricsError, match="series"):
        parse_metrics(b"vllm:num_requests_running 1\n" * 5000)


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"x", b"1e999", b"--3"])
def test_a_value_that_is_no_number_is_absent(value: bytes) -> None:
    reading = parse_metrics(b"vllm:num_requests_running %b\nvllm:num_requests_waiting 1\n" % value)
    assert reading.running is None and reading.waiting == 1


@given(st.binary(max_size=400), st.sampled_from([VLLM_NOW, VLLM_OLD, LLAMACPP]), st.integers(0, 900))
def test_damaged_text_is_read_or_refused_but_never_fails(noise: bytes, text: bytes, at: int) -> None:
    damaged = text[:at] + noise + text[at:]
    try:
        found = gauges(parse_metrics(damaged), Reading(), seconds=1)
    except MetricsError:
        return
    assert found.kv_percent is None or 0 <= found.kv_percent <= 100
    assert found.running is None or found.running >= 0
