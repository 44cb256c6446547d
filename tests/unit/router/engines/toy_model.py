"""A deterministic language model and its byte-level tokenizer, small enough to be read: what scripted engines generate from.

The next token is a pure function of every id before it (and of the request's options), so that a stream which goes on from the
right ids equals the undisturbed one to the bit, and one which goes on from wrong ids does not. Tokens are bytes and byte strings:
many end in the middle of a character, some start there, and some bytes are no UTF-8 at all.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

REPLACEMENT: Final = "\ufffd"

SPECIALS: Final = ("<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
BOS, EOS = 0, 1
_FIRST_BYTE: Final = len(SPECIALS)
_WORDS: Final = (
    " the",
    " and",
    " sea",
    " Brücke",
    "Straße",
    " naïve",
    " 中",
    "文",
    "語",
    "😀",
    " 👍",
    "é",
    "ü",
    "\n",
    ". ",
    ", ",
    " 42",
)
_SHARDS: Final = (
    b"\xe4\xb8",  # the first two bytes of 中
    b"\xad\xe6",  # the end of one character and the start of the next
    b"\x96\x87",
    b"\xf0\x9f",  # half an emoji
    b"\xf0\x9f\x98",
    b"\x98\x80",
    b" \xc3",
    b"\xbc r",
    b"a\xe6",
    b"\x96\x87 b",
)
VOCABULARY: Final = (
    *(special.encode() for special in SPECIALS),
    *(bytes([byte]) for byte in range(256)),
    *(word.encode() for word in _WORDS),
    *_SHARDS,
)
_WORD_IDS: Final = tuple(range(_FIRST_BYTE + 256, _FIRST_BYTE + 256 + len(_WORDS)))
_SHARD_IDS: Final = tuple(range(_WORD_IDS[-1] + 1, len(VOCABULARY)))
_ASCII_IDS: Final = tuple(_FIRST_BYTE + byte for byte in b'etaoinshrdlu ETA.,;:0123456789"\\{}')
_CONTINUATION_IDS: Final = tuple(_FIRST_BYTE + byte for byte in range(0x80, 0xC0))
_INVALID_IDS: Final = tuple(_FIRST_BYTE + byte for byte in (0xFF, 0xC0, 0x80, 0xE4, 0xF0))
_PLAIN: Final = {token: number for number, token in enumerate(VOCABULARY) if number >= _FIRST_BYTE}
_WITH_SPECIALS: Final = {token: number for number, token in enumerate(VOCABULARY)}
_LONGEST: Final = max(map(len, VOCABULARY))


def byte_id(byte: int) -> int:
    """The token that is this byte alone."""
    return _FIRST_BYTE + byte


def is_special(token: int) -> bool:
    return token < _FIRST_BYTE


def encode(text: str, *, parse_special: bool = False) -> list[int]:
    """Greedy longest match over the text's bytes."""
    table = _WITH_SPECIALS if parse_special else _PLAIN
    raw, at, ids = text.encode(), 0, list[int]()
    while at < len(raw):
        piece = next(raw[at : at + size] for size in range(_LONGEST, 0, -1) if raw[at : at + size] in table)
        ids.append(table[piece])
        at += len(piece)
    return ids


def decode(ids: Sequence[int], *, skip_special: bool = False) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD, one for each maximal part."""
    return b"".join(VOCABULARY[token] for token in ids if not (skip_special and is_special(token))).decode("utf-8", "replace")


def render_chat(messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True) -> str:
    """The chat template."""
    turns = "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in messages)
    return turns + ("<|assistant|>" if add_generation_prompt else "")


class DetokenizerStream:
    """Text of tokens that come one by one, as the DecodeStream of the `tokenizers` library gives it.

    Also its flaw (vllm#48853): a stream primed with ids that end in the middle of a character has no prefix to cut off, so the
    first text that it gives is that of all ids since the beginning.
    """

    def __init__(self, prompt: Sequence[int], *, skip_special: bool = True) -> None:
        self._ids = list(prompt)
        self._prefix = ""
        self._prefix_index = 0
        self._skip_special = skip_special

    def step(self, token: int) -> str:
        """New text, or nothing while a character is not whole."""
        if not self._prefix and self._ids:
            prefix = self._decode(self._ids)
            if not prefix.endswith(REPLACEMENT):
                self._prefix, self._prefix_index = prefix, len(self._ids)
        self._ids.append(token)
        text = self._decode(self._ids)
        if len(text.encode()) <= len(self._prefix.encode()) or text.endswith(REPLACEMENT):
            return ""
        new = text[len(self._prefix) :]
        kept = len(self._ids) - self._prefix_index
        self._ids = self._ids[self._prefix_index :]
        self._prefix, self._prefix_index = self._decode(self._ids), kept
        return new

    def _decode(self, ids: Sequence[int]) -> str:
        return decode(ids, skip_special=self._skip_special)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What of a request changes the next token. `nonce` stands for sampling: two requests never share it.

    `depends_on_output`: penalties that count generated tokens alone, so that the same ids divided differently into prompt and
    output go on differently. `variant` stands for numerics that depend on the prompt's length and the batch (bf16): now and then
    another token is as good.
    """

    nonce: str = ""
    depends_on_output: str = ""
    constants: str = ""
    banned: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    variant: int = 0


@dataclass(frozen=True, slots=True)
class ToyModel:
    """`seed` stands for the weights. About one token in `lifetime` ends the answer."""

    seed: int = 0
    lifetime: int = 150

    def next_id(self, prompt: Sequence[int], output: Sequence[int], sampling: Sampling, *, banned: Collection[int] = ()) -> int:
        """The token after `prompt` and `output`."""
        forbidden = sampling.banned | set(banned) | _completing(sampling.bad_words, output)
        ids = array("H", [*prompt, *output])
        key = f"{self.seed}|{sampling.nonce}|{sampling.constants}|".encode() + ids.tobytes()
        if sampling.depends_on_output:
            key += sampling.depends_on_output.encode() + array("H", output).tobytes()
        if sampling.variant and _number(key, "tie") % 12 == 0:
            key += f"{sampling.variant}|{len(prompt)}".encode()
        for attempt in range(1000):
            token = self._draw(_number(key, attempt), ids)
            if token not in forbidden:
                return token
        raise AssertionError("everything is forbidden")

    def _draw(self, number: int, ids: Sequence[int]) -> int:
        share, number = number % 100, number // 100
        if number % self.lifetime == 0:
            return EOS
        number //= self.lifetime
        if _inside_a_character(ids) and share < 80:
            return _CONTINUATION_IDS[number % len(_CONTINUATION_IDS)]
        for limit, choices in ((45, _ASCII_IDS), (84, _WORD_IDS), (96, _SHARD_IDS), (100, _INVALID_IDS)):
            if share < limit:
                return choices[number % len(choices)]
        raise AssertionError("unreachable")


def _number(key: bytes, attempt: object) -> int:
    return int.from_bytes(blake2b(key, digest_size=8, salt=str(attempt).encode()).digest(), "big")


def _inside_a_character(ids: Sequence[int]) -> bool:
    tail = b"".join(VOCABULARY[token] for token in ids[-4:])
    return tail.decode("utf-8", "replace").endswith(REPLACEMENT)


def _completing(bad_words: Sequence[Sequence[int]], output: Sequence[int]) -> set[int]:
    """Tokens that would complete a bad word; only generated tokens count as its beginning, as in vLLM."""
    found = set()
    for *start, last in bad_words:
        if len(start) <= len(output) and list(output[len(output) - len(start) :]) == start:
            found.add(last)
    return found
