"""After which token a broken answer goes on. Pure; asking an engine about token ids is the caller's business.

Two things make most tokens unfit (measured on vLLM, see docs/resume.md):

* A prompt that ends in the middle of a character makes vLLM give out the whole prompt as text (vllm#48853). So the text of the
  kept tokens must end with a whole character.
* While a stop string may have begun, its characters are held back. An engine looks for stop strings only in what it generates
  itself, so the kept tokens must end before the first character that the client does not have. Then every stop string that is
  still possible lies wholly in the continuation's text.

Everything that the continuation says again is compared with what the client has, and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mica_router.core.resume.transcript import Boundary

REPLACEMENT: Final = "\ufffd"


class Seam(NamedTuple):
    """`tokens` are kept, and `characters` of the answer's text are theirs. `certain`: the text of the tokens is whole."""

    tokens: int
    characters: int
    certain: bool


START: Final = Seam(0, 0, certain=True)


def candidates(
    boundaries: Sequence[Boundary], *, delivered: int, held_back: int, cut_off: bool, max_tokens: int | None
) -> list[Seam]:
    """Seams in the order in which they are wanted: the last first. `START`, from which all is generated again, always fits.

    `delivered`: characters that the client has. `held_back`: what the engine may keep from it; with `cut_off` (stop strings are
    not part of the answer) it did, so the text of the tokens is longer by as much. At least one token must be left to generate,
    because the engine refuses to generate none.
    """
    hidden = held_back if cut_off else 0
    return [
        Seam(boundary.tokens, boundary.characters + hidden, certain=boundary.clean)
        for boundary in reversed(boundaries)
        if boundary.characters + held_back <= delivered and (max_tokens is None or boundary.tokens < max_tokens)
    ]


class Verdict(NamedTuple):
    """`fits`: go on from here. `hopeless`: no earlier seam will fit either."""

    fits: bool
    hopeless: bool = False


def examine(seam: Seam, text: str | None, *, delivered: str) -> Verdict:
    """Whether the answer can go on after `seam`, whose tokens alone have this `text` (None: no engine would tell).

    When text and tokens tell different stories (a parser in the engine took something out, special tokens were left out, the
    first answer leaked its prompt), only generating everything again shows whether the client has what the tokens say.
    """
    if text is None:
        return Verdict(seam.certain)
    if text.endswith(REPLACEMENT):
        return Verdict(False)
    expected = delivered[: seam.characters]
    # Some tokenizers drop the space that their first token begins with when they decode it alone.
    same = text in (expected, expected.removeprefix(" "))
    return Verdict(same, hopeless=not same)


def splits_bad_word(ids: Sequence[int], bad_words: Iterable[Sequence[int]]) -> bool:
    """Whether a forbidden sequence may have begun in `ids`: the engine that goes on would not know, and allow its end."""
    return any(
        size <= len(ids) and list(ids[len(ids) - size :]) == list(word[:size])
        for word in bad_words
        for size in range(1, len(word))
    )
