"""Certificates and kubeconfigs of a box. Made anew for every box; valid for a year; nothing is kept of the CA's key."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from dataclasses import dataclass

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mica_box.plan import NODE_NAME, Plan

VALID = dt.timedelta(days=365)
SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Subject:
    """Who a certificate names: user, groups, and the names and addresses it may serve."""

    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.user)])


class Authority:
    """A certificate authority that lives as long as this object."""

    def __init__(self, name: str, *, now: dt.datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._now = now
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - SKEW)
            .not_valid_after(self._now + VALID)
        )

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, subject: Subject) -> Pair:
        """A certificate for client and server use."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]
        builder = (
            self._builder(_name(subject), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def subjects(plan: Plan) -> dict[str, Subject]:
    """Everybody in the box, by file name. Groups decide what RBAC lets them do."""
    service_names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    masters = ("system:masters",)
    return {
        "apiserver": Subject("kube-apiserver", names=service_names, addresses=("127.0.0.1", plan.service_ip, plan.box_ip)),
        "admin": Subject("admin", masters),
        "kubelet-client": Subject("kube-apiserver-kubelet-client", masters),
        "kcm": Subject("system:kube-controller-manager"),
        "scheduler": Subject("system:kube-scheduler"),
        "proxy": Subject("system:kube-proxy"),
        "kwok": Subject("kwok", masters),
        "node": Subject(
            f"system:node:{NODE_NAME}",
            ("system:nodes",),
            names=(NODE_NAME,),
            addresses=("127.0.0.1", plan.box_ip),
        ),
    }


def kubeconfig(*, server: str, authority: bytes, pair: Pair, name: str) -> str:
    """A kubeconfig with everything inside it, so that it can be copied anywhere."""

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    user = {"client-certificate-data": b64(pair.certificate), "client-key-data": b64(pair.key)}
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": b64(authority)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(body, sort_keys=False)


def make_files(plan: Plan, *, now: dt.datetime) -> dict[str, bytes]:
    """All files of the box's PKI folder: `ca.crt`, `sa.key`, `sa.pub`, and `.crt`, `.key`, `.kubeconfig` of each subject."""
    authority = Authority(f"{plan.name}-ca", now=now)
    service_accounts = ec.generate_private_key(ec.SECP256R1())
    public = service_accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files = {"ca.crt": authority.certificate, "sa.key": _pem(service_accounts), "sa.pub": public}
    for file, subject in subjects(plan).items():
        pair = authority.issue(subject)
        files[f"{file}.crt"], files[f"{file}.key"] = pair.certificate, pair.key
        config = kubeconfig(server=plan.server, authority=authority.certificate, pair=pair, name=plan.name)
        files[f"{file}.kubeconfig"] = config.encode()
    return files
