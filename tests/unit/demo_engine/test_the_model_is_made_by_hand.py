"""The GGUF: readable text by construction, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import gguf
import make_model
import numpy as np


def spoken(vocabulary: make_model.Vocabulary, *, answer: int = 200) -> str:
    """What greedy decoding yields: follow the largest logit until the end token."""
    logits = make_model.next_token_logits(vocabulary)
    stand_ins = {char: byte for byte, char in enumerate(make_model.byte_alphabet())}
    token, said = make_model.SPECIALS.index(make_model.ASSISTANT), bytearray()
    for _ in range(answer):
        token = int(np.argmax(logits[:, token]))
        if token == make_model.SPECIALS.index(make_model.EOS):
            return said.decode()
        said += bytes(stand_ins[char] for char in vocabulary.tokens[token])
    raise AssertionError("no end")


def test_greedy_decoding_says_every_sentence_in_order() -> None:
    assert spoken(make_model.build_vocabulary()) == " ".join(make_model.SENTENCES)


def test_every_token_is_unique_and_every_byte_can_be_read() -> None:
    tokens = make_model.build_vocabulary().tokens
    assert len(set(tokens)) == len(tokens) <= make_model.WIDTH
    assert set(make_model.byte_alphabet()) <= set(tokens)
    assert len(set(make_model.byte_alphabet())) == 256


def test_the_file_is_the_same_every_time_and_complete(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_model.write_model(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    reader = gguf.GGUFReader(tmp_path / "one")
    assert {tensor.name for tensor in reader.tensors} == set(make_model.tensors(make_model.build_vocabulary()))
    assert "tokenizer.chat_template" in reader.fields
