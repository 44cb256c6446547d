"""Going on with a llama.cpp stream, best effort: its OpenAI endpoints tell no token ids, so the text itself is tokenized again.

The tokens of the text are often, not always, those that were generated (43 of 48 cuts in the measurement that docs/resume.md
names), and then the answer is another valid one from there on. So clients are told, by a comment in the stream.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mica_router.core.continuation import Ask
from mica_router.core.resume import engines
from mica_router.core.resume.refusals import Refused
from mica_router.core.resume.story import Story

NOTICE: Final = b": resumed from text, best effort\n\n"
_CARRIED: Final = ("model", "stop", "ignore_eos", "logit_bias", "cache_prompt")


async def prepare(story: Story, body: bytes, ask: Ask) -> bytes | Refused:
    """The request that goes on with `story`, whose first request was `body`."""
    asked = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    prompt = await _prompt_tokens(story, asked, ask)
    said = await engines.tokens_of(ask, story.text, special=False) if story.text else []
    if prompt is None or said is None:
        return Refused.NO_TOKENIZER
    story.prompt_tokens, story.tokens_before, story.position = len(prompt), len(said), len(story.text)
    request: dict[str, object] = {name: asked[name] for name in _CARRIED if name in asked}
    request |= {"prompt": [*prompt, *said], "temperature": 0, "stream": True}
    if story.request.max_tokens is not None and story.request.max_tokens >= 0:
        # At least one, because an answer that was full would have ended.
        request["max_tokens"] = max(1, story.request.max_tokens - len(said))
    return msgspec.json.encode(request)


async def _prompt_tokens(story: Story, asked: dict[str, msgspec.Raw], ask: Ask) -> list[int] | None:
    if story.request.endpoint == "chat":
        template = {name: value for name, value in asked.items() if name not in ("stream", "stream_options")}
        text = await engines.rendered_prompt(ask, body=dict(template))
        return None if text is None else await engines.tokens_of(ask, text, special=True)
    prompt = msgspec.json.decode(asked["prompt"], type=str | list[str | int])
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return await engines.tokens_of(ask, prompt, special=True)
    ids = [item for item in prompt if isinstance(item, int)]
    return ids if len(ids) == len(prompt) else None
