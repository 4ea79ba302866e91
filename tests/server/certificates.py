"""Certificates for tests: an authority of one's own, and what it vouches for."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder; its own is `ca.crt` there."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key, 30).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = folder / f"{name}.crt"
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, days: float = 30, common_name: bool = True) -> Issued:
        """Issue a certificate for this machine and whoever has the name, again where there is one.

        Without a common name it has the name as SPIFFE's have it, in a URI.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if common_name else [])
        places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if not common_name:
            places = [x509.UniformResourceIdentifier(f"spiffe://shop.example/{name}")]
        made = self._builder(subject, key, days).add_extension(x509.SubjectAlternativeName(places), critical=False)
        issued = Issued(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        _write(issued.key, key.private_bytes(*_PEM_KEY))
        certificate = made.sign(self._key, hashes.SHA256())
        _write(issued.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return issued

    def revoked_none(self) -> bytes:
        """Return the PEM list of the certificates that are revoked, which are none."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now)
        signed = made.next_update(now + datetime.timedelta(days=1)).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


_PEM_KEY = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, contents: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(contents)
    partial.replace(path)
