"""The scheduler's side of the process: a raw ASGI application behind mutual TLS on loopback.

Every answer to a known verb has status 200, because kube-scheduler throws away the body of any other; what went wrong is in the
answer's ``Error``. Not for anybody but the kube-scheduler in the same pod: whoever can call bind decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mica_extender.asgi import Receive, Scope, Send, TooLarge, answer, read_body
from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling import wire
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.declined import Decline, Declined
from mica_extender.scheduling.samples import Samples
from mica_extender.scheduling.verbs import NO_PRIORITIES, FilterReply, NodeVerbs, confirm_victims
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger
from mica_runtime.http2.connection import AtOnce, Http2Protocol, Reply, Respond, never_at_once
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
MAX_BODY: Final = 64 * 2**20
"""5,000 whole Node objects are 50 MB; a scheduler that sends names needs a hundredth."""

NOT_SYNCED: Final = "the extender has not read the cluster's state yet"
NOT_LEADING: Final = "this replica does not lead: its kube-scheduler does not hold the Lease, or took it over seconds ago"


class SchedulerApp:
    """ASGI application of the four verbs. ``synced`` says whether the caches are complete.

    ``nodes`` decides filter and prioritize; without it they are decided on numpy. ``samples``
    hears of samples without a fitting node.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        binder: Binder,
        leadership: Leadership,
        synced: Callable[[], bool],
        metrics: Metrics,
        nodes: NodeVerbs | None = None,
        samples: Samples | None = None,
    ) -> None:
        self._ledger = ledger
        self._nodes = nodes or NodeVerbs(ledger=ledger, kernel=NumpyKernel())
        self._samples = samples
        self._binder = binder
        self._leadership = leadership
        self._synced = synced
        self._metrics = metrics
        self._verbs: Mapping[str, tuple[Callable[[bytes], Awaitable[bytes]], Callable[[str], bytes]]] = {
            "filter": (self._filter, lambda error: wire.write_filter(wire.FilterAnswer(error=error))),
            "prioritize": (self._prioritize, lambda _: NO_PRIORITIES),
            "bind": (self._bind, wire.write_bind),
            "preempt": (self._preempt, lambda _: wire.write_preempt({})),
        }
        self._at_once: Mapping[str, Callable[[wire.NodeQuestion], bytes | None]] = {
            "/filter": self._filter_at_once,
            "/prioritize": self._nodes.prioritize_at_once,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request over HTTP/1.1."""
        if scope["type"] != "http":
            return
        try:
            body: bytes | None = await read_body(receive, limit=MAX_BODY)
        except TooLarge:
            body = None
        reply = await self.respond(scope["method"], scope["path"], body)
        await answer(send, status=reply.status, body=reply.body, content_type=reply.content_type)

    async def respond(self, method: str, path: str, body: bytes | None) -> Reply:
        """Answer one request, however it came; the body is None when it was larger than MAX_BODY."""
        verb = path.strip("/")
        if verb not in self._verbs:
            return Reply(b"no such verb\n", 404, b"text/plain")
        if method != "POST":
            return Reply(b"POST only\n", 405, b"text/plain")
        return Reply(await self._answer(verb, body))

    def at_once(self, method: str, path: str, body: bytes) -> Reply | None:
        """What ``respond`` answers, where nothing has to be waited for and nothing is wrong; None: ask ``respond``.

        A task for an answer that takes a tenth of a millisecond would cost as much as the answer.
        """
        act = self._at_once.get(path)
        if act is None or method != "POST" or not self._synced() or not self._leadership.leading():
            return None
        started = perf_counter()
        try:
            question = wire.read_nodes(body)
        except wire.Malformed:
            return None
        try:
            answer = act(question)
        except Exception:
            _log.exception("verb failed; it is answered the long way", verb=path[1:])
            return None
        if answer is None:
            return None
        self._metrics.took(path[1:], started)
        return Reply(answer)

    async def _answer(self, verb: str, body: bytes | None) -> bytes:
        act, fail = self._verbs[verb]
        try:
            if body is None:
                raise wire.Malformed(f"the request is too large; at most {MAX_BODY} bytes are read")
            if verb == "filter" and self._binder.busy:
                # Filter is the only thing that kube-scheduler's loop waits for before it starts the next bind.
                self._metrics.held.inc()
                await self._binder.room()
            started = perf_counter()
            try:
                return await act(body)
            finally:
                self._metrics.took(verb, started)
        except (Declined, wire.Malformed) as error:
            _log.warning("verb answered with an error", verb=verb, error=str(error))
            reason = error.reason if isinstance(error, Declined) else Decline.MALFORMED
            return self._failed(verb, reason, str(error), fail)
        except Exception as error:
            _log.exception("verb failed", verb=verb)
            words = f"internal error of the extender: {type(error).__name__}"
            return self._failed(verb, Decline.INTERNAL_ERROR, words, fail)

    def _failed(self, verb: str, reason: Decline, words: str, fail: Callable[[str], bytes]) -> bytes:
        self._metrics.errors.labels(verb).inc()
        if verb == "bind":
            self._metrics.bind_declined(reason)
        return fail(words)

    def _check_ready(self) -> None:
        if not self._synced():
            raise Declined(Decline.NOT_SYNCED, NOT_SYNCED)
        if not self._leadership.leading():
            raise Declined(Decline.NOT_LEADING, NOT_LEADING)

    async def _filter(self, body: bytes) -> bytes:
        question = wire.read_nodes(body)
        self._check_ready()
        return self._told(question, await self._nodes.filter(question))

    def _filter_at_once(self, question: wire.NodeQuestion) -> bytes | None:
        reply = None if self._binder.busy else self._nodes.filter_at_once(question)
        return None if reply is None else self._told(question, reply)

    def _told(self, question: wire.NodeQuestion, reply: FilterReply) -> bytes:
        """Body of an answer of filter, once it is counted."""
        for reason, count in reply.refused.items():
            self._metrics.refusals.labels(reason).inc(count)
        if self._samples is not None and reply.missed:
            self._samples.missed(question.pod.uid, samples=reply.missed)
        elif self._samples is not None:
            self._samples.judged(question.pod.uid)
        return reply.body

    async def _prioritize(self, body: bytes) -> bytes:
        question = wire.read_nodes(body)
        self._check_ready()
        return await self._nodes.prioritize(question)

    async def _bind(self, body: bytes) -> bytes:
        question = wire.read_bind(body)
        self._check_ready()
        error = await self._binder.bind(question)
        if error:
            self._metrics.errors.labels("bind").inc()
        return wire.write_bind(error)

    async def _preempt(self, body: bytes) -> bytes:
        question = wire.read_preempt(body)
        self._check_ready()
        return wire.write_preempt(await confirm_victims(question, self._ledger))


ALPN: Final = ("h2", "http/1.1")
"""What the scheduler's port speaks. Go's client takes HTTP/2: one connection, whatever the number of binds under way."""


def named_client_protocol(common_name: str, respond: Respond, at_once: AtOnce = never_at_once) -> type[HttpToolsProtocol]:
    """HTTP protocol that drops every connection whose client certificate is not made out to ``common_name``.

    That it is signed by our authority has been checked by then; the name keeps other holders of such a certificate out.
    Connections that speak HTTP/2 are answered by ``at_once`` or ``respond``, others by uvicorn's application.
    """

    class NamedClientProtocol(HttpToolsProtocol):
        """Protocol of one connection."""

        def connection_made(self, transport: Any) -> None:
            """Look at the certificate before anything is read."""
            if client_name(transport.get_extra_info("peercert")) != common_name:
                _log.warning("client refused: certificate of another name", peer=str(transport.get_extra_info("peername")))
                transport.abort()
                return
            if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
                http2 = Http2Protocol(respond, at_once, body_limit=MAX_BODY, peers=self.connections)
                transport.set_protocol(http2)
                http2.connection_made(transport)
                return
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            """Ignore what a refused client sends before its connection is closed."""
            if getattr(self, "transport", None) is not None:
                super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            """End a connection that was let in."""
            if getattr(self, "transport", None) is not None:
                super().connection_lost(exc)

    return NamedClientProtocol


def client_name(certificate: Mapping[str, Any] | None) -> str:
    """Common name in a peer certificate as Python's ssl module presents it; empty without one."""
    for group in (certificate or {}).get("subject", ()):
        for key, value in group:
            if key == "commonName":
                return str(value)
    return ""
