from __future__ import annotations

import base64
import datetime as dt

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from mica_box.pki import make_files, subjects
from mica_box.plan import Plan

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def files(full_plan: Plan) -> dict[str, bytes]:
    return make_files(full_plan, now=NOW)


def attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(a.value) for a in certificate.subject.get_attributes_for_oid(oid)]


def test_every_certificate_is_signed_by_the_boxs_authority_and_valid_for_a_year(files: dict[str, bytes], full_plan: Plan) -> None:
    authority = x509.load_pem_x509_certificate(files["ca.crt"])
    for name in subjects(full_plan):
        certificate = x509.load_pem_x509_certificate(files[f"{name}.crt"])
        certificate.verify_directly_issued_by(authority)
        assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
        key = load_pem_private_key(files[f"{name}.key"], None)
        assert key.public_key() == certificate.public_key()


def test_the_kubelets_certificate_is_a_nodes_and_nothing_more(files: dict[str, bytes]) -> None:
    certificate = x509.load_pem_x509_certificate(files["node.crt"])
    assert attribute(certificate, NameOID.COMMON_NAME) == ["system:node:node1"]
    assert attribute(certificate, NameOID.ORGANIZATION_NAME) == ["system:nodes"]


def test_only_administrators_and_helpers_are_masters(files: dict[str, bytes], full_plan: Plan) -> None:
    masters = {
        name
        for name in subjects(full_plan)
        if "system:masters" in attribute(x509.load_pem_x509_certificate(files[f"{name}.crt"]), NameOID.ORGANIZATION_NAME)
    }
    assert masters == {"admin", "kubelet-client", "kwok"}


def test_the_api_server_may_serve_its_service_and_link_addresses(files: dict[str, bytes], full_plan: Plan) -> None:
    certificate = x509.load_pem_x509_certificate(files["apiserver.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", full_plan.service_ip, full_plan.box_ip}
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_a_kubeconfig_holds_everything_it_needs(files: dict[str, bytes], full_plan: Plan) -> None:
    config = yaml.safe_load(files["admin.kubeconfig"])
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    assert cluster["server"] == f"https://{full_plan.box_ip}:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == files["ca.crt"]
    assert base64.b64decode(user["client-certificate-data"]) == files["admin.crt"]


def test_the_authoritys_key_is_not_kept(files: dict[str, bytes]) -> None:
    assert "ca.key" not in files
