"""A port that is taken or a certificate that is not there is a bad setting, named in one line, no traceback."""

import asyncio
import socket

import pytest

from mica_router.app import SingleProcess
from mica_router.settings import RouterSettings
from mica_runtime.settings import SettingsError


async def test_a_certificate_that_is_missing_or_no_certificate_names_the_settings(tmp_path):
    (tmp_path / "k.pem").write_text("no key")
    for certificate in (tmp_path / "missing.pem", tmp_path / "k.pem"):
        with pytest.raises(SettingsError, match="MICA_TLS_CERT_FILE"):
            SingleProcess(RouterSettings(tls_cert_file=certificate, tls_key_file=tmp_path / "k.pem"))


async def test_a_port_that_is_taken_names_the_address():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        router = SingleProcess(RouterSettings(host="127.0.0.1", port=port))
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            await router.serve_data(asyncio.Event())
