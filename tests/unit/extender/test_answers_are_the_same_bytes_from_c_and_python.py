"""Names are read and answers written alike by the C kernel and by Python, and both are what a JSON encoder would write."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.request import PodRequest
from mica_extender.placement import NodeState, Shape
from mica_extender.placement.answers import REASONS, Answers, KnownNames, NativeAnswers, PythonAnswers
from mica_extender.placement.fleet import Fleet
from mica_extender.placement.kernels import load_native
from mica_extender.scheduling.verbs import FilterReply, Replies

KNOWN = ("n0", "node-1.example", "n2", "ü", 'quo"ted', "")


def both() -> tuple[Answers, Answers]:
    return NativeAnswers(load_native()), PythonAnswers()


def fleet() -> Fleet:
    return Fleet(NodeState(name, 1, ()) for name in KNOWN if name)


names = st.one_of(st.sampled_from(KNOWN), st.text(max_size=6), st.text("abc-.0123456789", min_size=1, max_size=20))
requests = st.lists(st.tuples(names, st.integers(0, len(REASONS) - 1), st.booleans()), max_size=12)


@settings(max_examples=300)
@given(drawn=requests, spaced=st.booleans(), ascii_only=st.booleans())
def test_filter_and_prioritize_are_answered_with_the_same_bytes(
    drawn: list[tuple[str, int, bool]], spaced: bool, ascii_only: bool
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    raw = json.dumps([name for name, _, _ in drawn], separators=separators, ensure_ascii=ascii_only).encode("utf-8", "replace")
    texts = json.loads(raw)
    codes = np.array([code for _, code, _ in drawn], np.uint8)
    permanent = np.array([never for _, _, never in drawn], np.uint8)
    scores = np.array([(code - 3) * 10**17 for _, code, _ in drawn], np.int64)
    bodies = []
    for answers in both():
        read = answers.read_names(fleet(), raw)
        assert read.rows.tolist() == [fleet().index.get(text, -1) for text in texts]
        bodies.append((answers.filter_answer(read, codes, permanent), answers.priorities(read, scores)))
    assert bodies[0] == bodies[1]
    answer, priorities = (json.loads(body) for body in bodies[0])
    assert answer["NodeNames"] == [text for text, code in zip(texts, codes, strict=True) if not code]
    failed = {t: REASONS[c] for t, c, p in zip(texts, codes, permanent, strict=True) if c and not p}
    unresolvable = {t: REASONS[c] for t, c, p in zip(texts, codes, permanent, strict=True) if c and p}
    assert (answer["FailedNodes"], answer["FailedAndUnresolvableNodes"]) == (failed, unresolvable)
    assert priorities == [{"Host": t, "Score": s} for t, s in zip(texts, scores.tolist(), strict=True)]


@settings(max_examples=300)
@given(st.binary(max_size=20) | st.text('[]"\\, n0', max_size=12).map(str.encode))
def test_what_is_no_list_of_names_is_refused_by_both(raw: bytes) -> None:
    try:
        value = json.loads(raw)
        fine = isinstance(value, list) and all(isinstance(item, str) for item in value)
    except ValueError:
        fine = False
    for answers in both():
        if fine:
            assert len(answers.read_names(fleet(), raw)) == len(value)
        else:
            with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
                answers.read_names(fleet(), raw)


def test_a_custom_reason_is_said_for_every_node() -> None:
    for answers in both():
        read = answers.read_names(fleet(), b'["n0","x"]')
        ones = np.ones(2, np.uint8)
        body = json.loads(answers.filter_answer(read, ones, ones, ("", 'says "no"')))
        assert body["FailedAndUnresolvableNodes"] == {"n0": 'says "no"', "x": 'says "no"'}


def test_names_are_looked_up_anew_when_a_node_has_come_or_gone() -> None:
    for answers in both():
        known, nodes = KnownNames(answers), fleet()
        raw = b'["n0","late"]'
        first = known.read(nodes, raw)
        assert known.read(nodes, bytes(bytearray(raw))) is first
        nodes.put(NodeState("late", 1, ()))
        nodes.drop("n0")
        assert known.read(nodes, raw).rows.tolist() == [-1, nodes.index["late"]]


def test_an_answer_has_at_most_twenty_distinct_reasons() -> None:
    assert len(set(REASONS)) <= 20


def test_answers_are_forgotten_by_what_they_take_in_all() -> None:
    """Also when the names are many and the answers short, or nothing but many."""
    for raw, most in ((b"[" + b" " * 2**20 + b"]", 16), (b"[]", 2**14)):
        replies, listed = Replies(), replace(PythonAnswers().read_names(fleet(), raw), raw=raw)
        for clock in range(2 * most):
            replies.put(Shape(PodRequest(()), cpu_milli=clock), listed, clock, FilterReply(b"{}", {}))
        assert 0 < len(replies) <= most
