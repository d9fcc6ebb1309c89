"""A private authority and its certificates, made anew for each test session: keys that are stored age and leak."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ORGANISATION = "streamq tests"


def named(common_name: str, unit: str) -> x509.Name:
    """The name of a holder. Members of a set and clients must differ by more than the common name."""
    parts = {
        NameOID.COMMON_NAME: common_name,
        NameOID.ORGANIZATIONAL_UNIT_NAME: unit,
        NameOID.ORGANIZATION_NAME: ORGANISATION,
    }
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts.items()])


class Authority:
    """Signs certificates; all its files are in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = named(name, "authorities")
        begin, end = lifetime(1)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, unit: str, *, hosts: Sequence[str] = (), addresses: Sequence[str] = (), days: int = 1
    ) -> Path:
        """Return the file of a new key with its certificate; `days` below 0: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        begin, end = lifetime(days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name, unit))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )
        others = [x509.DNSName(one) for one in hosts] + [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        path = self._directory / f"{name}-{certificate.serial_number:x}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        path.chmod(0o600)
        return path


def lifetime(days: int) -> tuple[datetime, datetime]:
    """From two days ago to so many days from now."""
    now = datetime.now(UTC)
    return now - timedelta(days=2), now + timedelta(days=days)
