"""The start-up test of the stand-alone router: dead engines are named, tiers are compared."""

import httpx
import pytest

from mica_cli.standalone.checks import Answer, Pace, compare, performance_ratio, reach
from mica_cli.standalone.keys import parse

CONFIG = parse(
    {
        "services": {"gpu": [{"host": "g1", "port": 1}, {"host": "::1", "port": 2}], "cpu": {"host": "c", "port": 3}},
        "models": {"default": "m", "params": {"test_prompt": "hello", "test_tokens": 20}},
    }
)
MODELS = {"data": [{"id": "m"}, {"id": "other"}]}


def client(answers):
    """Answers by host: a response, a JSON value, or an exception."""

    def handle(request):
        answer = answers[request.url.host]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else httpx.Response(200, json=answer)

    return httpx.Client(transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (MODELS, None),
        ({"data": [{"id": "other"}]}, "serves other, not m"),
        ({"data": []}, "serves nothing, not m"),
        ({"models": 1}, "no list of models"),
        ([1], "no list of models"),
        (httpx.ConnectError("refused"), "does not answer: refused"),
        (lambda request: httpx.Response(503), "answers 503 to GET /v1/models"),
        (lambda request: httpx.Response(200, content=b"<html>"), "no list of models"),
    ],
)
def test_every_engine_is_asked_and_what_is_wrong_is_said(answer, problem):
    answers = reach(CONFIG, client({"g1": answer, "::1": MODELS, "c": MODELS}))
    assert [(a.tier, a.url) for a in answers] == [("gpu", "http://g1:1"), ("gpu", "http://[::1]:2"), ("cpu", "http://c:3")]
    assert answers[0].problem is None if problem is None else problem in answers[0].problem
    assert [a.problem for a in answers[1:]] == [None, None]


def test_tiers_are_compared_by_one_request_each_to_an_engine_that_is_fit():
    asked = []

    def talk(request):
        asked.append((request.url.host, request.read()))
        return httpx.Response(200, json={"usage": {"completion_tokens": 20}})

    times = iter([0.0, 1.0, 10.0, 14.0])
    answers = [Answer("gpu", "http://g1:1", problem="dead"), Answer("gpu", "http://g2:1"), Answer("cpu", "http://c:3")]
    paces = compare(CONFIG, answers, client({"g2": talk, "c": talk}), clock=lambda: next(times))
    assert paces == [Pace("gpu", 20.0, 1.0), Pace("cpu", 5.0, 4.0)]
    assert [host for host, _ in asked] == ["g2", "c"]
    assert all(b'"max_tokens":20' in body and b"hello" in body for _, body in asked)
    assert performance_ratio(paces) == 4.0


@pytest.mark.parametrize("answer", [httpx.ReadTimeout("slow"), {"usage": {}}, {"usage": {"completion_tokens": 0}}])
def test_a_tier_that_fails_the_test_is_left_out_of_the_comparison(answer):
    answers = [Answer("gpu", "http://g1:1"), Answer("cpu", "http://c:3")]
    paces = compare(CONFIG, answers, client({"g1": answer, "c": {"usage": {"completion_tokens": 5}}}))
    assert [pace.tier for pace in paces] == ["cpu"]
    assert performance_ratio(paces) is None
