"""Write the demo's model: a tiny llama GGUF that has memorised a few sentences. No download, no torch, the same bytes every time.

The weights are made by hand. A token's embedding is one-hot, attention and feed-forward compute on random weights but add
nothing (their output projections are zero), and the output matrix holds "which token follows this one". So the model is a
first-order chain over word tokens: readable text, deterministic at temperature 0, some variety above (after a sentence, any
other may follow). It knows nothing else; it is here so that a real engine has something real to run.

Usage: python make_model.py PATH
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

# No word may occur twice: a token is followed by what follows it in the text.
SENTENCES: Final = (
    "Hello from your tiny llama!",
    "My whole model fits into one small slice of some shared GPU.",
    "Every word you read was a launch on that card, so fewer cores mean slower speech.",
    "The scheduler picked my place,",
    "then the node agent wrote limits and let this container start.",
    "Ask again: I will say it with pleasure.",
)
USER, ASSISTANT, SYSTEM, END, BOS, EOS = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<s>", "</s>"
SPECIALS: Final = (BOS, EOS, SYSTEM, USER, ASSISTANT, END)
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

WIDTH: Final = 512  # one dimension per token, so at most this many tokens
LAYERS: Final = 2
HEADS, KV_HEADS, HEAD_SIZE = 8, 2, 64
FEED_FORWARD: Final = 256
CONTEXT: Final = 4096
SEED: Final = 20260101
SURE, LIKELY, POSSIBLE = 24.0, 16.0, 14.0  # logits; everything else is 0

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, and the chains of word ids, one per sentence."""

    tokens: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]


def byte_alphabet() -> tuple[str, ...]:
    """The printable stand-ins of the 256 bytes in byte-level BPE vocabularies (the GPT-2 convention)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in stand_ins)
    stand_ins |= {byte: chr(256 + position) for position, byte in enumerate(others)}
    return tuple(stand_ins[byte] for byte in range(256))


def build_vocabulary() -> Vocabulary:
    """Specials, bytes, then one token per word. Raises ValueError if a word repeats or there are too many."""
    alphabet = byte_alphabet()
    tokens = [*SPECIALS, *alphabet]
    chains: list[tuple[int, ...]] = []
    for sentence in SENTENCES:
        # Words bring the space before them, except the one that every answer starts with.
        spelt = f" {sentence}" if chains else sentence
        words = ["".join(alphabet[byte] for byte in word.encode()) for word in re.findall(r" ?[^ ]+", spelt)]
        chains.append(tuple(range(len(tokens), len(tokens) + len(words))))
        tokens.extend(words)
    if len(set(tokens)) != len(tokens):
        raise ValueError("a word occurs twice in SENTENCES")
    if len(tokens) > WIDTH:
        raise ValueError(f"{len(tokens)} tokens do not fit into {WIDTH}")
    return Vocabulary(tuple(tokens), tuple(chains))


def next_token_logits(vocabulary: Vocabulary) -> Array:
    """Matrix [next, current] of logits. Sentences follow each other in order; the last one ends the answer."""
    logits = np.zeros((len(vocabulary.tokens), WIDTH), dtype=np.float32)
    starts = [chain[0] for chain in vocabulary.chains]
    eos = SPECIALS.index(EOS)
    # Whatever a prompt ends with, the text begins at its beginning.
    logits[starts[0], :] = SURE
    for position, chain in enumerate(vocabulary.chains):
        logits[:, chain] = 0.0
        for current, following in pairwise(chain):
            logits[following, current] = SURE
        logits[starts[1:], chain[-1]] = POSSIBLE
        ends = position + 1 == len(vocabulary.chains)
        logits[eos if ends else starts[position + 1], chain[-1]] = SURE if ends else LIKELY
    return logits


def tensors(vocabulary: Vocabulary) -> dict[str, Array]:
    """Every tensor by its GGUF name, shape [out, in]."""
    random = np.random.default_rng(SEED)

    def noise(rows: int, columns: int) -> Array:
        return (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)

    def zeros(rows: int, columns: int) -> Array:
        return np.zeros((rows, columns), dtype=np.float32)

    count = len(vocabulary.tokens)
    # The norm before the output scales a one-hot vector to length sqrt(WIDTH).
    named = {
        "token_embd.weight": np.eye(count, WIDTH, dtype=np.float32),
        "output_norm.weight": np.full(WIDTH, 1 / np.sqrt(WIDTH), dtype=np.float32),
        "output.weight": next_token_logits(vocabulary),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        named |= {
            block + "attn_norm.weight": np.ones(WIDTH, dtype=np.float32),
            block + "attn_q.weight": noise(HEADS * HEAD_SIZE, WIDTH),
            block + "attn_k.weight": noise(KV_HEADS * HEAD_SIZE, WIDTH),
            block + "attn_v.weight": noise(KV_HEADS * HEAD_SIZE, WIDTH),
            block + "attn_output.weight": zeros(WIDTH, HEADS * HEAD_SIZE),
            block + "ffn_norm.weight": np.ones(WIDTH, dtype=np.float32),
            block + "ffn_gate.weight": noise(FEED_FORWARD, WIDTH),
            block + "ffn_up.weight": noise(FEED_FORWARD, WIDTH),
            block + "ffn_down.weight": zeros(WIDTH, FEED_FORWARD),
        }
    return named


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("mica-demo")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    special, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([special if token in SPECIALS else normal for token in vocabulary.tokens])
    # Prompts are read byte by byte; the format wants at least one merge, and this one yields no token.
    writer.add_token_merges(["\u0100 \u0100"])
    writer.add_bos_token_id(SPECIALS.index(BOS))
    writer.add_eos_token_id(SPECIALS.index(EOS))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_model(path: Path) -> None:
    """Write the GGUF (a few MB) by rename, so that a reader never sees half of it."""
    vocabulary = build_vocabulary()
    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(str(unfinished), "llama")
    _describe(writer)
    _add_tokenizer(writer, vocabulary)
    for name, values in tensors(vocabulary).items():
        writer.add_tensor(name, values.astype(np.float16) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_model.py PATH")
    write_model(Path(sys.argv[1]))
