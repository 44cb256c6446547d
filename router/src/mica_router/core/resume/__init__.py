"""Streams that go on after their engine died, and whole answers assembled from streams.

Modules, in the order of a stream's life: `request` (which streams can be resumed, and what their engine gets), `recording` (the
engine's bytes, kept and not read), `transcript` (the bytes read after a death), `seam` (after which token to go on), `story` and
`splice` (the second engine's events, made to go on where the first one stopped), `replay` (the same request once more),
`text_only` (llama.cpp, best effort), `whole` (answers that are streamed only so that the engine notices a client that leaves),
`book` (all of it behind the ports of `core.continuation`).
"""
