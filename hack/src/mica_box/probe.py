"""Is a daemon ready? One short look at a URL or a socket; anything but a clear yes is a no."""

from __future__ import annotations

import http.client
import socket
import ssl
from urllib.parse import urlsplit

from mica_box.spec import Probe

TIMEOUT_S = 1.0


def _context(pki: str) -> ssl.SSLContext:
    """The box's own admin certificate. Names are not checked: kcm and scheduler sign themselves, on loopback."""
    context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
    return context


def _http_ok(url: str, pki: str) -> bool:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=_context(pki))
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()


def ready(probe: Probe, pki: str) -> bool:
    """True when the URL answers 200, or the socket accepts."""
    try:
        if probe.url:
            return _http_ok(probe.url, pki)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(probe.socket)
        return True
    except (OSError, http.client.HTTPException):
        return False
