"""Callers: what each is called in logs and limits, and the files that say who they are."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from kg.errors import ConfigError
from server.access import tokens
from server.access.config import AccessSettings, JwtSettings
from server.access.gate import Gate
from server.access.roles import Need, Role
from server.access.web_tokens import WebTokens
from server.errors import DeniedError, RateLimitedError, UnauthenticatedError

READ, ERASE = Need(Role.READ), Need(Role.ADMIN, audited=True)
NOBODY = 65534
LINES_A_SECOND = 20


@dataclass(frozen=True)
class Call:
    """What a gate sees of a call."""

    token: str | None = None
    certificate: dict[str, list[bytes]] = field(default_factory=dict)
    address: str = "ipv4:192.0.2.1:50000"

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [] if self.token is None else [("authorization", f"Bearer {self.token}")]

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self.certificate

    def peer(self) -> str:
        return self.address


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def publish(key: ec.EllipticCurvePrivateKey, path: Path) -> JwtSettings:
    """Write a provider's key as a file of its own in the place of the one before."""
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    partial = path.with_suffix(".partial")
    partial.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, kind))
    partial.replace(path)
    return JwtSettings(key_file=path, issuer="i", audience="a")


def web_token(key: ec.EllipticCurvePrivateKey, subject: str, **claims: object) -> str:
    told = {"iss": "i", "aud": "a", "sub": subject, "exp": int(time.time()) + 600, "roles": ["read"]}
    return jwt.encode(told | claims, key, algorithm="ES256")


def test_callers_of_different_kinds_never_have_one_name(tmp_path: Path) -> None:
    key = new_key()
    _, token = tokens.create(tmp_path / "tokens.json", "operator", [Role.READ])
    access = AccessSettings(
        required=True,
        tokens_file=tmp_path / "tokens.json",
        certificate_roles=(Role.READ,),
        jwt=publish(key, tmp_path / "key.pem"),
        calls_per_s=0.001,  # one call at once
    )
    gate = Gate(access)
    calls = [
        Call(token),
        Call(web_token(key, "operator")),
        Call(web_token(key, "certificate operator")),
        Call(certificate={"x509_common_name": [b"operator"]}),
    ]
    named = [gate.let_in(READ, call).name for call in calls]  # and none takes another's only call
    assert named == ["operator", "jwt operator", "jwt certificate operator", "certificate operator"]


@pytest.mark.parametrize("name", ["certificate shop", "jwt shop"])
def test_a_token_can_t_be_named_as_another_kind_of_caller_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' can't name a token"):
        tokens.create(tmp_path / "tokens.json", name, [Role.READ])


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("ipv6:%5B2a00:1:2:3::1%5D:50000", "ipv6:%5B2a00:1:2:3:4:5:6:7%5D:50001", "ipv6:%5B2a00:1:2:4::1%5D:50000"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50000", "ipv4:192.0.2.1:50001", "ipv6:%5B::ffff:192.0.2.2%5D:50000"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "ipv6:%5Bfe80::2%25eth0%5D:50000", "ipv6:%5B::1%5D:50000"),
        ("ipv4:192.0.2.1:50000", "ipv4:192.0.2.1:50001", "ipv4:192.0.2.2:50000"),
        ("unix:", "unix:/run/kgrank", "ipv4:192.0.2.1:50000"),
    ],
)
def test_the_addresses_that_one_host_may_have_share_a_rate(address: str, same: str, other: str) -> None:
    gate = Gate(AccessSettings(calls_per_s=0.001))
    gate.let_in(READ, Call(address=address))
    with pytest.raises(RateLimitedError):
        gate.let_in(READ, Call(address=same))
    gate.let_in(READ, Call(address=other))


def test_a_flood_of_calls_without_their_role_fills_no_log(tmp_path: Path) -> None:
    _, token = tokens.create(tmp_path / "tokens.json", "reader", [Role.READ])
    gate = Gate(AccessSettings(required=True, tokens_file=tmp_path / "tokens.json"))
    began_s, calls = time.monotonic(), 50 * LINES_A_SECOND
    with capture_logs() as logged:
        for _ in range(calls):
            with pytest.raises(DeniedError):
                gate.let_in(ERASE, Call(token))
    denied = [line for line in logged if line["event"] == "denied"]
    seconds = int(time.monotonic() - began_s) + 2  # those of the clock that it has touched
    assert LINES_A_SECOND <= len(denied) <= seconds * LINES_A_SECOND < calls
    told = {"event": "denied", "log_level": "warning", "caller": "reader", "role": "admin"}
    assert denied[0] == told


def make_readable(path: Path) -> None:
    """Change a file's mode, until the file system's clock has noticed."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(0o640)


def test_a_key_that_becomes_readable_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_key(), new_key()
    gate = Gate(AccessSettings(required=True, jwt=publish(old, tmp_path / "key.pem")))

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    publish(new, tmp_path / "key.pem")
    with monkeypatch.context() as patched, capture_logs() as logged:  # root, as tests may be, can read everything
        patched.setattr(Path, "read_bytes", refused)
        gate.refresh()
        gate.refresh()
    assert [line["event"] for line in logged] == ["web_token_keys_not_read"]
    with pytest.raises(UnauthenticatedError):
        gate.let_in(READ, Call(web_token(new, "shop")))
    make_readable(tmp_path / "key.pem")
    gate.refresh()
    assert gate.let_in(READ, Call(web_token(new, "shop"))).name == "jwt shop"


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    made = {
        "rsa": jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "ec": jwt.algorithms.ECAlgorithm.to_jwk(new_key()),
    }
    for name, key in made.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"keys": [json.loads(key)]}))
        with pytest.raises(ConfigError, match=rf"{name}\.json has a private key"):
            WebTokens(JwtSettings(key_file=path, issuer="i", audience="a"))


def test_a_key_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    der = new_key().public_key()
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "key.der").write_bytes(der.public_bytes(serialization.Encoding.DER, kind))
    with pytest.raises(ConfigError, match=r"key\.der has no key that can be used"):
        WebTokens(JwtSettings(key_file=tmp_path / "key.der", issuer="i", audience="a"))


def test_an_end_beyond_all_numbers_is_not_good(tmp_path: Path) -> None:
    key = new_key()
    checker = WebTokens(publish(key, tmp_path / "key.pem"))
    assert checker.check(web_token(key, "shop", exp=10**400)) is None


RECORD = {"token_id": "a", "name": "a", "roles": ["read"], "salt": "", "sha256": "0" * 64, "created_ms": 0}


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"\xff\xfe{}", "all of it: Invalid JSON"),
        (b"[" * 100_000, "all of it: Invalid JSON"),
        (json.dumps({"version": 2, "tokens": []}).encode(), "version"),
        (json.dumps({"tokens": []}).encode(), "version"),
        (json.dumps({"version": 1, "tokens": [RECORD, {**RECORD, "roles": ["cook"]}]}).encode(), "tokens.1.roles.0"),
        (json.dumps({"version": 1, "tokens": [{**RECORD, "token_id": []}]}).encode(), "tokens.0.token_id"),
        (json.dumps({"version": 1, "tokens": [{**RECORD, "calls_per_s": "ten"}]}).encode(), "tokens.0.calls_per_s"),
        (json.dumps({"version": 1, "tokens": [{**RECORD, "sha256": "é"}]}).encode(), "tokens.0.sha256"),
        (json.dumps({"version": 1, "tokens": [{**RECORD, "team": "shop"}]}).encode(), "tokens.0.team"),
    ],
    ids=["no text", "deep", "version", "no version", "role", "id", "rate", "hash", "more"],
)
def test_what_is_wrong_in_a_file_of_tokens_is_named(tmp_path: Path, contents: bytes, problem: str) -> None:
    (tmp_path / "tokens.json").write_bytes(contents)
    with pytest.raises(ConfigError, match=rf"tokens\.json is not a file of tokens of this version: {problem}"):
        tokens.read(tmp_path / "tokens.json")


def test_tokens_that_can_t_be_read_do_not_keep_new_keys_out(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    path = tmp_path / "tokens.json"
    tokens.create(path, "shop", [Role.READ])
    gate = Gate(AccessSettings(required=True, tokens_file=path, jwt=publish(old, tmp_path / "key.pem")))
    path.write_bytes(b"\xff\xfe{}")
    publish(new, tmp_path / "key.pem")
    gate.refresh()
    assert gate.let_in(READ, Call(web_token(new, "shop"))).name == "jwt shop"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_the_file_stays_its_owner_s_when_root_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    record, _ = tokens.create(path, "leaving", [Role.READ])
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o640)
    tokens.revoke(path, record.token_id)
    made = path.stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (NOBODY, NOBODY, 0o640)
    assert tokens.read(path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_locks_by_is_the_owner_s_as_well(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    tokens.create(file, "shop", [Role.READ])
    file.with_name(".tokens.json.lock").unlink()
    os.chown(file, NOBODY, NOBODY)
    tokens.create(file, "other", [Role.READ])
    assert file.with_name(".tokens.json.lock").stat().st_uid == NOBODY


def test_who_can_t_keep_the_owner_is_refused_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.json"
    record, _ = tokens.create(path, "leaving", [Role.READ])
    path.chmod(0o640)
    before = path.read_bytes()

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.fchown", refused)  # root, as tests may be, can keep every owner
    with pytest.raises(ConfigError, match=r"tokens\.json is of user \d+ and group \d+, and would not be any more"):
        tokens.revoke(path, record.token_id)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [".tokens.json.lock", "tokens.json"]
