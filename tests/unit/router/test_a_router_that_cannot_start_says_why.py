"""A port that is taken or a certificate that is not there is a bad setting, named in one line, no traceback."""

import asyncio
import socket

import pytest

from mica_router.app import SingleProcess, run_single, run_supervised
from mica_router.ports import Publish
from mica_router.settings import RouterSettings
from mica_runtime.settings import SettingsError


async def test_a_certificate_that_is_missing_or_no_certificate_names_the_settings(tmp_path):
    (tmp_path / "k.pem").write_text("no key")
    for certificate in (tmp_path / "missing.pem", tmp_path / "k.pem"):
        with pytest.raises(SettingsError, match="MICA_TLS_CERT_FILE"):
            SingleProcess(RouterSettings(tls_cert_file=certificate, tls_key_file=tmp_path / "k.pem"))


class NoRoutes:
    """A source that never publishes."""

    async def run(self, publish: Publish) -> None:
        raise AssertionError("nothing is started")


async def test_several_workers_are_not_started_to_stumble_over_a_certificate_one_after_the_other(tmp_path):
    (tmp_path / "k.pem").write_text("no key")
    bad = RouterSettings(workers=2, tls_cert_file=tmp_path / "k.pem", tls_key_file=tmp_path / "k.pem")
    with pytest.raises(SettingsError, match="MICA_TLS_CERT_FILE and MICA_TLS_KEY_FILE cannot be used"):
        await run_supervised(bad, NoRoutes())


@pytest.mark.parametrize("workers", [1, 2])
async def test_authorities_that_cannot_be_read_name_the_setting(tmp_path, workers):
    settings = RouterSettings(workers=workers, engine_ca_file=tmp_path / "missing.pem")
    with pytest.raises(SettingsError, match="MICA_ENGINE_CA_FILE cannot be used"):
        await (run_single if workers == 1 else run_supervised)(settings, NoRoutes())


async def test_a_port_that_is_taken_names_the_address():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        router = SingleProcess(RouterSettings(host="127.0.0.1", port=port))
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            await router.serve_data(asyncio.Event())
