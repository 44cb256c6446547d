"""Scaling from zero and the CPU tier, with the real router, operator, node and engine."""

from __future__ import annotations

from openai import OpenAI

from .mica_under_test import ON_REAL_NODE, Platform, condition, eventually, inference_service, serving_url


def _say(url: str, model: str) -> str | None:
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=180) as client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
    return answer.choices[0].message.content


def test_the_first_request_wakes_a_model_and_is_answered(mica: Platform) -> None:
    body = inference_service("sleeper")
    body["spec"]["autoscaling"] = {"min": 0, "max": 1, "idleTimeout": "20s"}
    body["spec"]["routing"] = {"queue": {"maxWait": "150s"}}
    mica.box.apply(body)
    url = serving_url(mica, "sleeper")
    assert condition(mica.get("minf", "sleeper"), "ScaledToZero")["status"] == "True"
    assert _say(url, "sleeper")
    assert mica.get("minf", "sleeper")["status"]["replicas"] == 1
    eventually("the model to sleep again", lambda: mica.get("minf", "sleeper")["status"]["replicas"] == 0, timeout_s=120)
    mica.delete("minf", "sleeper")


def test_the_cpu_tier_answers_while_there_is_no_slice(mica: Platform) -> None:
    body = inference_service("twofold")
    body["spec"]["replicas"] = 0
    body["spec"]["cpu"] = {"cores": 1, "memory": "256Mi", "engine": {"drain": "1s"}, "placement": {"nodeSelector": ON_REAL_NODE}}
    mica.box.apply(body)
    url = serving_url(mica, "twofold")
    assert condition(mica.get("minf", "twofold"), "Ready")["reason"] == "CPUOnly"
    assert _say(url, "twofold")
    mica.delete("minf", "twofold")
