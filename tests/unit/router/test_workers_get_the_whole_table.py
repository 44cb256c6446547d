"""A table that was sent to a worker is the table, with all that a routes file can say."""

from __future__ import annotations

import msgspec

from mica_router.core.routes import build_table
from mica_router.sources.routes_file import parse_routes_file
from mica_router.workers.channel import Table, table_message, table_of

FILE = """
models:
  - name: chat
    default: true
    engines: [{url: "https://e", kind: vllm, numerics: x}, {url: "http://f", tier: cpu}]
    routing: {rules: [{name: r, conditions: {a: {in: [1, x]}, b: {exists: true}}, action: {device: CPU}}]}
    defaults: {max_tokens: 5}
    decider: {policy: thresholds, maxNumSeqs: null}
"""


def test_a_table_survives_the_way_to_a_worker() -> None:
    table = build_table(parse_routes_file(FILE, created=1))
    message = table_message(table, {})
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Table)
    assert received == message
    assert table_of(received) == table
