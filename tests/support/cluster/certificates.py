"""Keys and certificates of a test cluster: one authority, and what it signs for servers and for users.

They are made anew for every cluster and live as long as its folder; nothing here is fit for anything but tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)
USAGE_FLAGS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate_path: Path
    key_path: Path


class Authority:
    """A certificate authority whose certificate is FOLDER/ca.crt; all that it issues lies beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = generate_private_key(SECP256R1())
        self._name = to_name("llm-operator-test-ca", [])
        usage = x509.KeyUsage(**dict.fromkeys(USAGE_FLAGS, False) | {"key_cert_sign": True, "crl_sign": True})
        builder = build_certificate(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self.pair = self._save("ca", self._key, builder)

    @property
    def certificate_path(self) -> Path:
        return self.pair.certificate_path

    def issue_server(self, name: str, hosts: Sequence[str]) -> Pair:
        """For a server that is reached under these names and addresses."""
        return self._issue(name, to_name(name, []), hosts)

    def issue_client(self, name: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """For a user of the API server, who is in these groups."""
        return self._issue(name, to_name(user, groups), [])

    @cached_property
    def service_account_key(self) -> Pair:
        """Signs tokens of service accounts. Its other half is a bare public key, no certificate."""
        key = generate_private_key(SECP256R1())
        pair = Pair(self.folder / "service-account.pub", self.folder / "service-account.key")
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        pair.certificate_path.write_bytes(public)
        save_key(pair.key_path, key)
        return pair

    def _issue(self, name: str, subject: x509.Name, hosts: Sequence[str]) -> Pair:
        key = generate_private_key(SECP256R1())
        builder = build_certificate(subject, self._name, key)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if hosts:
            alternatives = x509.SubjectAlternativeName([to_general_name(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        return self._save(name, key, builder)

    def _save(self, name: str, key: EllipticCurvePrivateKey, builder: x509.CertificateBuilder) -> Pair:
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.certificate_path.write_bytes(builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        save_key(pair.key_path, key)
        return pair


def build_certificate(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def to_name(user: str, groups: Sequence[str]) -> x509.Name:
    """Kubernetes reads the user from the common name and the groups from the organizations."""
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def to_general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def save_key(path: Path, key: EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
