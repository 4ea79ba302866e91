"""Who may call what: tokens, JSON Web Tokens, roles, rates, and the record of what was done."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kg.errors import ConfigError
from kgrank.channel import Credentials
from kgrank.client import Client
from kgrank.errors import DeniedError, OverloadedError, UnauthenticatedError
from kgrank.v1.ranking_service_pb2 import BatchRecommendRequest, RecommendRequest
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from server.access import tokens
from server.access.config import AccessSettings, JwtSettings
from server.access.gate import Gate
from server.access.limits import Rate, Rates
from server.access.roles import NEEDS, Need, Role, need_of
from server.access.web_tokens import WebCaller, WebTokens
from tests.server.command import CommandLine
from tests.server.guarded import Guarded, status
from tests.server.methods import methods, path_of
from tests.server.running import running

USER = "a-person@example.com"


def test_every_call_of_the_contract_has_its_line_in_the_table_and_no_other_has() -> None:
    assert set(NEEDS) == {method.full_name for method in methods()}


def test_every_call_of_the_contract_is_answered_by_somebody(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.target) as channel:
        assert not [method.full_name for method in methods() if not served(channel, path_of(method).lstrip("/"))]


def test_a_call_that_the_table_lacks_needs_an_admin() -> None:
    assert need_of("kgrank.v1.NewService.DoAnything") == Need(Role.ADMIN, audited=True)


def test_without_a_token_nothing_is_answered_but_health(guarded: Guarded) -> None:
    with Client(guarded.server.target, credentials=Credentials()) as nobody:
        with pytest.raises(UnauthenticatedError) as refused:
            nobody.recommend("user-01")
        assert refused.value.reason == "UNAUTHENTICATED"
    with grpc.insecure_channel(guarded.server.target) as channel:
        for method in methods():
            name = f"{method.containing_service.full_name}/{method.name}"
            if served(channel, name):
                assert status(channel, name, None) == grpc.StatusCode.UNAUTHENTICATED
        probe = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert probe.status == health_pb2.HealthCheckResponse.SERVING
        reflection = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        assert status(channel, reflection, None) == grpc.StatusCode.UNIMPLEMENTED


def served(channel: grpc.Channel, method: str) -> bool:
    return status(channel, method, None) != grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_make_its_own_calls_and_an_admin_all(guarded: Guarded, role: Role) -> None:
    _, token = tokens.create(guarded.tokens, f"only-{role.replace('_', '-')}", [role])
    guarded.taken_up(token)
    with grpc.insecure_channel(guarded.server.target) as channel:
        for method in methods():
            name = f"{method.containing_service.full_name}/{method.name}"
            # A request whose bytes are none: whoever is let in hears of that, or of nothing being there.
            found = status(channel, name, token, b"\xff\xff")
            if found != grpc.StatusCode.UNIMPLEMENTED:
                may = role in (need_of(method.full_name).role, Role.ADMIN)
                assert (found == grpc.StatusCode.PERMISSION_DENIED) != may, name


def test_a_denied_call_says_which_role_it_needs(guarded: Guarded) -> None:
    with guarded.client(Role.READ) as reader:
        assert reader.recommend("user-01", k=1).results
        with pytest.raises(DeniedError, match="needs the role admin") as refused:
            reader.activate_model("models/any")
    assert refused.value.reason == "MISSING_ROLE"


@pytest.mark.parametrize(
    "token", ["", "kgr_", "kgr__", "kgr_000000000000_secret", "x" * 5000, "kgr_\\x00_", "eyJhbGciOiJub25lIn0.e30."]
)
def test_a_token_of_nobody_is_refused(guarded: Guarded, token: str) -> None:
    with grpc.insecure_channel(guarded.server.target) as channel:
        assert status(channel, "kgrank.v1.RankingService/Rank", token) == grpc.StatusCode.UNAUTHENTICATED


def test_another_s_secret_under_a_known_id_is_refused(guarded: Guarded) -> None:
    record, token = tokens.create(guarded.tokens, "known", [Role.READ])
    _, other = tokens.create(guarded.tokens, "other", [Role.ADMIN])
    guarded.taken_up(token)
    stolen = f"kgr_{record.token_id}_{other.split('_', 2)[2]}"
    with grpc.insecure_channel(guarded.server.target) as channel:
        assert status(channel, "kgrank.v1.RankingService/Rank", stolen) == grpc.StatusCode.UNAUTHENTICATED


def test_a_revoked_token_is_refused_by_the_running_server(guarded: Guarded) -> None:
    record, token = tokens.create(guarded.tokens, "leaving", [Role.READ])
    guarded.taken_up(token)
    tokens.revoke(guarded.tokens, record.token_id)
    deadline = time.monotonic() + 20
    with grpc.insecure_channel(guarded.server.target) as channel:
        while status(channel, "kgrank.v1.RankingService/Rank", token) != grpc.StatusCode.UNAUTHENTICATED:
            assert time.monotonic() < deadline


def test_an_expired_token_is_no_longer_good(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    past, old = tokens.create(tmp_path / "t", "old", [Role.READ], expires_ms=now_ms - 1)
    future, new = tokens.create(tmp_path / "t", "new", [Role.READ], expires_ms=now_ms + 60_000)
    records = {each.token_id: each for each in (past, future)}
    assert (tokens.check(records, old), tokens.check(records, new)) == (None, future)


def test_the_file_holds_no_token_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    _, token = tokens.create(path, "shop", [Role.READ])
    _, again = tokens.create(path, "shop", [Role.READ])
    kept = path.read_text()
    assert token != again
    for secret in (token, again, token.split("_", 2)[2], again.split("_", 2)[2]):
        assert secret not in kept
    assert path.stat().st_mode & 0o777 == 0o600
    first, second = json.loads(kept)["tokens"]
    assert first["salt"] != second["salt"]


def test_the_command_shows_a_token_once_and_revokes_it(kgrank: CommandLine, tmp_path: Path) -> None:
    made = kgrank(tmp_path, "token", "create", "shop", "--role", "read", "--role", "write_events", "--days", "30")
    token = made.out.strip()
    listed = json.loads(kgrank(tmp_path, "token", "list", "--json").out)
    assert [(each["name"], each["roles"]) for each in listed] == [("shop", ["read", "write_events"])]
    assert token.split("_", 2)[2] not in kgrank(tmp_path, "token", "list").out + json.dumps(listed)
    assert "token, not its id" in kgrank(tmp_path, "token", "revoke", token).err
    assert kgrank(tmp_path, "token", "revoke", listed[0]["token_id"]).code == 0
    assert json.loads(kgrank(tmp_path, "token", "list", "--json").out) == []
    assert kgrank(tmp_path, "token", "create", "a\nb", "--role", "read").code == 1


def test_a_damaged_tokens_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokens\.json is not a file of tokens"):
        tokens.read(tmp_path / "tokens.json")


# --- JSON Web Tokens


@dataclass(frozen=True)
class Provider:
    """An identity provider with one key."""

    key: rsa.RSAPrivateKey
    checker: WebTokens
    pem: str

    def token(self, key: Any = None, **claims: Any) -> str:
        told = {"iss": "https://id", "aud": "kgrank", "sub": "shop", "exp": time.time() + 60, "roles": ["read"]}
        told = {name: value for name, value in (told | claims).items() if value is not None}
        return jwt.encode(told, key or self.key, algorithm="RS256")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path_factory.mktemp("provider") / "key.pem"
    path.write_bytes(pem)
    settings = JwtSettings(key_file=path, issuer="https://id", audience="kgrank")
    return Provider(key, WebTokens(settings), pem.decode())


def test_a_web_token_names_its_caller_and_roles(provider: Provider) -> None:
    checked = provider.checker.check(provider.token(roles=["read", "admin", "cook"]))
    assert checked is not None
    assert (checked.name, checked.roles) == ("shop", {Role.READ, Role.ADMIN})


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other"},
        {"aud": "other"},
        {"aud": None},
        {"exp": time.time() - 3600},
        {"exp": None},
        {"nbf": 4_102_444_800},
        {"sub": None},
    ],
)
def test_a_web_token_for_others_or_of_another_time_is_refused(provider: Provider, claims: dict[str, Any]) -> None:
    assert provider.checker.check(provider.token(**claims)) is None


def test_a_web_token_can_t_choose_how_it_is_checked(provider: Provider) -> None:
    import base64
    import hashlib
    import hmac

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"iss": "https://id", "aud": "kgrank", "sub": "shop", "exp": time.time() + 60, "roles": ["admin"]}
    unsigned = f"{part({'alg': 'none'})}.{part(claims)}."
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mac = hmac.new(provider.pem.encode(), body.encode(), hashlib.sha256).digest()
    with_public_key = f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    by_other = provider.token(key=other)
    for forged in (unsigned, with_public_key, by_other, provider.token()[:-8] + "AAAAAAAA"):
        assert provider.checker.check(forged) is None


def test_the_keys_of_a_set_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("old", "new")}
    listed = [
        {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": name} for name, key in keys.items()
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": listed}))
    checker = WebTokens(JwtSettings(key_file=tmp_path / "keys.json", issuer="i", audience="a", roles_claim="scope"))

    def signed(by: str, named: str) -> str:
        claims = {"iss": "i", "aud": "a", "sub": "s", "exp": time.time() + 60, "scope": "openid read"}
        return jwt.encode(claims, keys[by], algorithm="ES256", headers={"kid": named})

    assert checker.check(signed("new", "new")).roles == {Role.READ}  # type: ignore[union-attr]
    assert checker.check(signed("new", "old")) is None
    assert checker.check(signed("new", "unknown")) is None


def test_a_web_token_opens_the_server(home: Path, provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(provider.pem)
    access = {
        "required": True,
        "jwt": {"key_file": tmp_path / "key.pem", "issuer": "https://id", "audience": "kgrank"},
    }
    with (
        running(home, access=access) as server,
        Client(server.target, credentials=Credentials(token=provider.token())) as client,
    ):
        for _ in range(2):  # the second time it is remembered
            assert client.recommend("user-01", k=1).results
        with pytest.raises(DeniedError):
            client.activate_model("models/any")


def test_shared_secrets_and_half_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}))
    with pytest.raises(ConfigError, match="no public key"):
        WebTokens(JwtSettings(key_file=tmp_path / "secret.json", issuer="i", audience="a"))
    with pytest.raises(ConfigError, match="issuer and audience"):
        WebTokens(JwtSettings(key_file=tmp_path / "secret.json"))


# --- rates


def test_a_bucket_gives_its_burst_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("server.access.limits.monotonic", lambda: now_s)
    rate = Rate(per_s=10, burst=3)
    assert [rate.take() for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    now_s += 0.25
    assert [rate.take() for _ in range(3)] == [0, 0, pytest.approx(0.05)]


def test_the_callers_that_are_remembered_are_those_seen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.access.limits._MOST_CALLERS", 2)
    monkeypatch.setattr("server.access.limits.monotonic", lambda: 100.0)
    rates = Rates(per_s=0.1, burst_s=10)  # one call at once
    taken = [rates.take(caller, None) == 0 for caller in ("busy", "other", "busy", "new", "busy", "other")]
    assert taken == [True, True, False, True, False, True]


def call(client: Client, times: int) -> None:
    for _ in range(times):
        client.recommend("user-01", k=1)


def test_a_caller_over_its_rate_is_told_when_to_come_back_and_others_are_served(guarded: Guarded) -> None:
    with guarded.client(Role.READ) as other, guarded.client(Role.READ, calls_per_s=0.001) as slow:
        with pytest.raises(OverloadedError) as refused:
            call(slow, times=3)
        assert refused.value.reason == "RATE_LIMITED"
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 1
        assert other.recommend("user-01", k=1).results


def test_a_stream_over_its_caller_s_rate_is_slowed_down_and_not_refused(guarded: Guarded) -> None:
    _, token = tokens.create(guarded.tokens, "streamer", [Role.READ], calls_per_s=40)
    guarded.taken_up(token)
    asked = [BatchRecommendRequest(sequence=n, request=RecommendRequest(k=1)) for n in range(120)]  # the burst is 80
    with grpc.insecure_channel(guarded.server.target) as channel:
        stream = RankingServiceStub(channel).BatchRecommend
        answered = list(stream(iter(asked), metadata=[("authorization", f"Bearer {token}")], timeout=60))
    assert {each.sequence for each in answered} == set(range(120))
    assert {each.WhichOneof("outcome") for each in answered} == {"response"}


def test_callers_without_a_name_are_limited_by_address(home: Path) -> None:
    with running(home, access={"calls_per_s": 1, "burst_s": 2}) as server, Client(server.target) as client:
        with pytest.raises(OverloadedError) as refused:
            call(client, times=200)
        assert refused.value.reason == "RATE_LIMITED"


def test_a_check_by_keys_that_were_withdrawn_meanwhile_is_not_remembered(provider: Provider, tmp_path: Path) -> None:
    keys = tmp_path / "key.pem"
    keys.write_text(provider.pem)
    told = JwtSettings(key_file=keys, issuer="https://id", audience="kgrank")
    gate = Gate(AccessSettings(required=True, jwt=told))
    token, old = provider.token(), WebTokens.check

    def renewed_meanwhile(checker: WebTokens, credential: str) -> WebCaller | None:
        checked = old(checker, credential)
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        keys.unlink()
        keys.write_bytes(other.public_bytes(serialization.Encoding.PEM, kind))
        gate.refresh()
        return checked

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WebTokens, "check", renewed_meanwhile)
        assert gate._of_web_token(token) is not None
    assert gate._of_web_token(token) is None
