"""Encryption: TLS, mutual TLS, renewed certificates, and where a server listens without any."""

import socket
import ssl
import time
import warnings
from pathlib import Path

import pytest
import structlog

from kg.errors import ConfigError
from kgrank.channel import Credentials
from kgrank.client import Client
from kgrank.errors import ServerUnavailableError
from server.access.exposure import refuse_exposure
from server.access.tls import credentials, expires_s
from server.config import ServeSettings
from tests.server.certificates import Authority, Issued
from tests.server.running import running
from tests.server.test_watch import values
from tests.waiting import until

HANDSHAKE_S = 10
NOTICED_S = 60 + 20


def tls(issued: Issued, client_ca: Path | None = None) -> dict[str, object]:
    return {"certificate_file": issued.certificate, "key_file": issued.key, "client_ca_file": client_ca}


def address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def of(target: str) -> str:
    """Return the address by its name, which the certificates have."""
    return target.replace("127.0.0.1", "localhost")


def answers(target: str, ca: Path, own: Issued | None = None) -> bool:
    shown = {} if own is None else {"certificate": own.certificate.read_bytes(), "key": own.key.read_bytes()}
    made = Credentials(ca=ca.read_bytes(), **shown)  # type: ignore[arg-type]
    with Client(of(target), timeout_s=60, credentials=made) as client:
        try:
            return bool(client.recommend("user-01", k=1).results)
        except ServerUnavailableError:
            return False


def test_only_who_trusts_the_certificate_gets_an_answer(home: Path, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with running(home, tls=tls(authority.issue("server"))) as server:
        assert answers(server.target, authority.certificate)
        assert not answers(server.target, other.certificate)
        with Client(server.target, timeout_s=1, credentials=Credentials()) as plain, pytest.raises(Exception):  # noqa: B017, PT011
            plain.recommend("user-01")


def test_a_renewed_certificate_is_taken_up_and_no_call_is_disturbed(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", days=9)
    ends_s = expires_s(issued.certificate)
    with running(home, tls=tls(issued), watch={"metrics_port": 0}) as server:
        told = "kgrank_certificate_expiry_timestamp_seconds"
        port = server.server.metrics_port or 0
        held = Credentials(ca=authority.certificate.read_bytes())
        with Client(of(server.target), credentials=held) as connected:
            assert connected.recommend("user-01", k=1).results
            issued.certificate.write_text("half a certif")  # a renewal that failed half-way
            assert answers(server.target, authority.certificate)
            assert values(port)[told,] == ends_s
            later = Authority(tmp_path, "later")
            key = issued.key.read_bytes()
            later.issue("server")
            issued.key.write_bytes(key)  # the certificate was renewed, the key was not
            assert values(port)[told,] == ends_s
            assert answers(server.target, authority.certificate)
            renewed = later.issue("server")
            until(lambda: values(port)[told,] == expires_s(renewed.certificate) > ends_s)
            until(lambda: answers(server.target, later.certificate))
            assert not answers(server.target, authority.certificate)
            assert connected.recommend("user-01", k=1).results


def test_mutual_tls_takes_known_callers_alone(home: Path, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    files = tls(authority.issue("server"), authority.certificate)
    access = {"required": True, "certificate_roles": ["read"]}
    with running(home, tls=files, access=access) as server:
        assert answers(server.target, authority.certificate, authority.issue("shop"))
        assert not answers(server.target, authority.certificate)
        assert not answers(server.target, authority.certificate, other.issue("stranger"))


def test_who_has_no_common_name_is_told_apart_by_what_the_certificate_has(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = tls(authority.issue("server"), authority.certificate)
    access = {"required": True, "certificate_roles": ["read"]}
    with (
        structlog.testing.capture_logs() as logged,
        running(home, tls=files, access=access, watch={"log_calls": True}) as server,
    ):
        for issued in (authority.issue("a"), *(authority.issue(name, common_name=False) for name in ("b", "c"))):
            assert answers(server.target, authority.certificate, issued)
    spiffe = "certificate spiffe://shop.example"
    assert [each["caller"] for each in logged if each["event"] == "call"] == [
        "certificate a",
        f"{spiffe}/b",
        f"{spiffe}/c",
    ]


def test_a_caller_s_certificate_that_has_ended_is_refused(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running(home, tls=tls(authority.issue("server"), authority.certificate)) as server:
        assert not answers(server.target, authority.certificate, authority.issue("late", days=-1))
        assert answers(server.target, authority.certificate, authority.issue("shop"))


def test_other_authorities_of_callers_are_taken_up(home: Path, tmp_path: Path) -> None:
    authority, later = Authority(tmp_path), Authority(tmp_path, "later")
    trusted = tmp_path / "callers.crt"
    trusted.write_bytes(authority.certificate.read_bytes())
    before, after = authority.issue("before"), later.issue("after")
    with running(home, tls=tls(authority.issue("server"), trusted)) as server:
        assert answers(server.target, authority.certificate, before)
        assert not answers(server.target, authority.certificate, after)
        trusted.write_bytes(later.certificate.read_bytes())
        until(lambda: answers(server.target, authority.certificate, after))
        assert not answers(server.target, authority.certificate, before)
        trusted.write_text("")  # unusable: the ones before stay
        assert answers(server.target, authority.certificate, after)


def test_authorities_of_callers_that_can_t_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, trusted = authority.issue("server"), tmp_path / "callers.crt"
    for contents in (None, b"", issued.key.read_bytes(), authority.revoked_none()):
        if contents is not None:
            trusted.write_bytes(contents)
        with pytest.raises(ConfigError, match=r"client_ca_file .*callers\.crt can't be used"):
            credentials(ServeSettings(tls=tls(issued, trusted)).tls)  # type: ignore[arg-type]


def test_a_certificate_that_becomes_readable_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", days=5)
    secured = credentials(ServeSettings(tls=tls(issued)).tls)  # type: ignore[arg-type]
    assert secured is not None
    ends_s = secured.ends_s()
    authority.issue("server", days=90)

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:  # root, as tests may be, can read everything
        patched.setattr(Path, "read_bytes", refused)
        assert secured.ends_s() == ends_s
    before = issued.key.stat().st_ctime_ns
    while issued.key.stat().st_ctime_ns == before:  # until the file system's clock has noticed
        issued.key.chmod(0o640)
    assert secured.ends_s() == expires_s(issued.certificate) > ends_s


@pytest.mark.parametrize("missing", ["certificate_file", "key_file"])
def test_files_that_do_not_fit_are_named_at_the_start(tmp_path: Path, missing: str) -> None:
    authority = Authority(tmp_path)
    issued, stranger = authority.issue("server"), Authority(tmp_path, "other").issue("stranger")
    with pytest.raises(ConfigError, match=r"server\.crt with its key .*stranger\.key can't be used"):
        credentials(ServeSettings(tls=tls(Issued(issued.certificate, stranger.key))).tls)  # type: ignore[arg-type]
    lacking = {**tls(issued), missing: None}
    with pytest.raises(ConfigError, match="certificate_file"):
        credentials(ServeSettings(tls=lacking).tls)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_without_a_certificate_it_listens_on_loopback_alone(host: str) -> None:
    with pytest.raises(ConfigError, match="without TLS") as refused:
        refuse_exposure(ServeSettings(host=host))
    assert "serve.insecure_anywhere = true" in refused.value.remedy
    refuse_exposure(ServeSettings(host=host, insecure_anywhere=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_certificate(host: str) -> None:
    refuse_exposure(ServeSettings(host=host))


def test_production_needs_tls_and_callers_who_say_who_they_are(tmp_path: Path) -> None:
    files = tls(Authority(tmp_path).issue("server"))
    with pytest.raises(ConfigError, match="without TLS"):
        refuse_exposure(ServeSettings(production=True))
    with pytest.raises(ConfigError, match="anybody may call"):
        refuse_exposure(ServeSettings(production=True, tls=files))  # type: ignore[arg-type]
    refuse_exposure(ServeSettings(production=True, tls=files, access={"required": True}))  # type: ignore[arg-type]


def test_roles_of_certificates_need_callers_who_say_who_they_are(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = tls(authority.issue("server"), authority.certificate)
    access = {"certificate_roles": ["read"]}
    with pytest.raises(ConfigError, match=r"certificate_roles is set without serve\.access\.required") as refused:
        refuse_exposure(ServeSettings(tls=files, access=access))  # type: ignore[arg-type]
    assert "serve.access.required = true" in refused.value.remedy
    with pytest.raises(ConfigError, match="certificate_roles"), running(home, tls=files, access=access):
        pass
    refuse_exposure(ServeSettings(tls=files, access={**access, "required": True}))  # type: ignore[arg-type]


def test_web_tokens_need_callers_who_say_who_they_are(tmp_path: Path) -> None:
    access = {"jwt": {"key_file": tmp_path / "keys.json", "issuer": "https://id", "audience": "kgrank"}}
    with pytest.raises(ConfigError, match=r"jwt\.key_file is set without serve\.access\.required"):
        refuse_exposure(ServeSettings(access=access))  # type: ignore[arg-type]
    refuse_exposure(ServeSettings(access={**access, "required": True}))  # type: ignore[arg-type]


def test_a_token_never_goes_to_another_machine_in_the_clear() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        Client("shop.example:50051", credentials=Credentials(token="kgr_x_y"))
    Client("localhost:1", credentials=Credentials(token="kgr_x_y")).close()
    Client("shop.example:50051", credentials=Credentials(token="kgr_x_y", tls=True)).close()


@pytest.mark.parametrize(("word", "encrypted"), [("on", True), ("TRUE", True), ("off", False), ("", False)])
def test_a_caller_asks_for_tls_in_the_words_of_every_setting(word: str, encrypted: bool) -> None:
    assert Credentials.of({"KGRANK_TLS": word}).encrypted is encrypted


def test_a_word_that_is_neither_yes_nor_no_leaves_no_caller_without_tls() -> None:
    with pytest.raises(ValueError, match="KGRANK_TLS is 'maybe': set it to true or false"):
        Credentials.of({"KGRANK_TLS": "maybe"})


def test_what_goes_to_this_machine_passes_no_proxy(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        for target in (served, of(served)):
            with Client(target, credentials=Credentials(token="kgr_x_y")) as client:
                assert client.recommend("user-01", k=1).results
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_handshake_that_never_ends_keeps_nobody_out_and_is_ended(home: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running(home, tls=tls(authority.issue("server"))) as server:
        silent = [socket.create_connection(address(server.target), timeout=HANDSHAKE_S + 20) for _ in range(50)]
        assert answers(server.target, authority.certificate)
        for each in silent:
            assert each.recv(1) == b"", "the server said something to somebody who had said nothing"
            each.close()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_peer_that_has_vanished_is_noticed(home: Path) -> None:
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings, acknowledged = (bytes([0, 0, 0, 4, flags, 0, 0, 0, 0]) for flags in (0, 1))
    with (
        running(home) as server,
        socket.create_connection(address(server.target), timeout=NOTICED_S + 30) as vanished,
    ):
        vanished.sendall(opening + settings + acknowledged)
        began = time.monotonic()
        while vanished.recv(4096):  # its pings are read, and not answered
            pass
        assert time.monotonic() - began < NOTICED_S + 15


@pytest.mark.parametrize(
    ("spoken", "taken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_only_tls_1_2_and_later_is_spoken(home: Path, tmp_path: Path, spoken: ssl.TLSVersion, taken: bool) -> None:
    authority = Authority(tmp_path)
    offered = ssl.create_default_context(cafile=str(authority.certificate))
    offered.set_ciphers("ALL:@SECLEVEL=0")  # else the client itself would not offer the oldest
    offered.set_alpn_protocols(["h2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        offered.minimum_version = offered.maximum_version = spoken
    with (
        running(home, tls=tls(authority.issue("server"))) as server,
        socket.create_connection(address(server.target), timeout=10) as plain,
    ):
        if taken:
            with offered.wrap_socket(plain, server_hostname="localhost") as connected:
                assert connected.version() == spoken.name.replace("_", ".")
        else:
            with pytest.raises(ssl.SSLError, match=r"EOF|PROTOCOL_VERSION"):  # the server's end, not the client's own
                offered.wrap_socket(plain, server_hostname="localhost")
