"""Router processes with HTTPS on both sides: requests and streams pass, and nobody is believed blindly."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

import httpx
import openai
import pytest
import trustme

from .conftest import TOKENS, RouterProcess, StartEngine, StartRouter

pytestmark = pytest.mark.timeout(300)
QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def start(
    start_router: StartRouter, engine_port: int, folder: Path, authority: trustme.CA, *, believed: trustme.CA, workers: str
) -> RouterProcess:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    believed.cert_pem.write_to_path(folder / "ca.crt")
    return start_router(
        f"models:\n  - {{name: chat, endpoints: ['https://127.0.0.1:{engine_port}']}}\n",
        MICA_TLS_CERT_FILE=str(folder / "tls.crt"),
        MICA_TLS_KEY_FILE=str(folder / "tls.key"),
        MICA_ENGINE_CA_FILE=str(folder / "ca.crt"),
        MICA_WORKERS=workers,
        MICA_MAX_BODY_BYTES="1048576",
    )


def engine_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def client_of(router: RouterProcess, authority: trustme.CA) -> openai.OpenAI:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return openai.OpenAI(
        base_url=f"https://127.0.0.1:{router.port}/v1",
        api_key="unused",
        max_retries=0,
        http_client=httpx.Client(verify=context, trust_env=False),
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_official_client_works_over_tls(
    start_router: StartRouter, start_openai_engine: StartEngine, tmp_path: Path, authority: trustme.CA, workers: str
) -> None:
    port = start_openai_engine("127.0.0.1", tls=engine_context(authority))
    router = start(start_router, port, tmp_path, authority, believed=authority, workers=workers)
    with client_of(router, authority) as client:
        for _ in range(3):
            answer = client.chat.completions.create(model="chat", messages=QUESTION)
            assert answer.choices[0].message.content == "".join(TOKENS)
            stream = client.chat.completions.create(model="chat", messages=QUESTION, stream=True)
            assert [chunk.choices[0].delta.content for chunk in stream] == TOKENS
    plain = http.client.HTTPConnection("127.0.0.1", router.port, timeout=10)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("GET", "/v1/models")
        plain.getresponse()
    plain.close()
    with client_of(router, trustme.CA()) as stranger, pytest.raises(openai.APIConnectionError):
        stranger.models.list()


def test_an_engine_with_a_certificate_of_somebody_else_gets_nothing(
    start_router: StartRouter, start_openai_engine: StartEngine, tmp_path: Path, authority: trustme.CA
) -> None:
    port = start_openai_engine("127.0.0.1", tls=engine_context(trustme.CA()))
    router = start(start_router, port, tmp_path, authority, believed=authority, workers="1")
    with client_of(router, authority) as client, pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="chat", messages=QUESTION)
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"]
    assert "certificate" in router.log.read_text().lower()
