"""The record of what callers did that others feel."""

import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from kg.errors import ConfigError
from kgrank.client import Client, fact
from kgrank.errors import CallError, DeniedError, InvalidRequestError, decode
from kgrank.v1.model_service_pb2 import ActivateModelRequest, SetTrafficRequest, Traffic, TrafficShare
from kgrank.v1.model_service_pb2_grpc import ModelServiceStub
from kgrank.v1.rule_service_pb2 import Rule, UpsertRuleRequest
from server.access.audit import Audit, RecordedErasure, erasures
from server.access.roles import Role, need_of
from server.errors import AuditError
from tests.server.guarded import Guarded
from tests.server.methods import methods
from tests.server.running import running
from tests.server.shop import Shop

USER = "a-person@example.com"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_admin_call_is_on_record_before_and_after(guarded: Guarded, shop: Shop) -> None:
    with guarded.client(Role.ADMIN) as admin:
        admin.activate_model(f"models/{shop.versions[0]}")
        with pytest.raises(CallError):
            admin.activate_model("models/ghost\u2028\u0085")
    begun, ended, begun_again, ended_again = lines(guarded.audit)[-4:]
    assert (begun["state"], ended["state"], ended["code"]) == ("begun", "ended", "OK")
    assert begun["about"] == {"name": f"models/{shop.versions[0]}"}
    assert begun["call_id"] == ended["call_id"] != begun_again["call_id"]
    assert (begun["caller"], begun["method"]) == ("tester", "kgrank.v1.ModelService.ActivateModel")
    assert ended_again["code"] != "OK"
    assert guarded.audit.stat().st_mode & 0o777 == 0o600


def test_the_record_tells_what_traffic_and_rules_were_set(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    shares = [TrafficShare(model="models/b", percent=10), TrafficShare(model="models/c", percent=20)]
    assert audit.about(SetTrafficRequest(traffic=Traffic(shares=shares, shadow="models/d"))) == {
        "count": 2,
        "shares": [{"model": "models/b", "percent": 10}, {"model": "models/c", "percent": 20}],
        "shadow": "models/d",
    }
    rule = Rule(rule_id="r", action=Rule.ACTION_BURY, brand="Acme", strength=2)
    told = {"rule_id": "r", "action": "ACTION_BURY", "brand": "Acme", "strength": 2}
    assert audit.about(UpsertRuleRequest(rule=rule)) == told
    for strength, said in ((math.nan, "NaN"), (-math.inf, "-Infinity")):  # refused, but they were sent
        assert audit.about(UpsertRuleRequest(rule=Rule(rule_id="r", strength=strength)))["strength"] == said
    rule = Rule.FromString(b"\x10\x63")  # an action that this server does not know
    assert audit.about(UpsertRuleRequest(rule=rule)) == {"action": 99}
    audit.close()


def test_the_record_tells_when_a_rule_holds(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    rule = Rule(rule_id="r", start_time=Timestamp(seconds=1_900_000_000), end_time=Timestamp(seconds=1 << 60))
    told = {"rule_id": "r", "start_time": "2030-03-17T17:46:40Z", "end_time": 1 << 60}  # the year 9999 is the last
    assert audit.about(UpsertRuleRequest(rule=rule)) == told
    audit.close()


def test_the_record_tells_which_facts_are_deleted(guarded: Guarded) -> None:
    facts = [fact("p-01", "PAIRS_WITH", "p-02"), fact("p-01", "MADE_IN", "Łódź", tail_kind="place")]
    with guarded.client(Role.WRITE_CATALOGUE) as cataloguer, pytest.raises(CallError):  # there is no graph
        cataloguer.delete_facts(facts)
    begun, _ = lines(guarded.audit)[-2:]
    head = {"kind": "product", "id": "p-01"}
    assert begun["about"] == {
        "count": 2,
        "facts": [
            {"head": head, "relation": "PAIRS_WITH", "tail": {"kind": "product", "id": "p-02"}},
            {"head": head, "relation": "MADE_IN", "tail": {"kind": "place", "id": "Łódź"}},
        ],
    }


@pytest.mark.parametrize("kind", ["user", "User", " users"])
def test_a_fact_that_names_a_person_is_refused_and_recorded_without_the_name(guarded: Guarded, kind: str) -> None:
    with guarded.client(Role.WRITE_CATALOGUE) as cataloguer, pytest.raises(InvalidRequestError):
        cataloguer.delete_facts([fact(USER, "LIKES", "p-01", head_kind=kind)])
    begun, ended = lines(guarded.audit)[-2:]
    assert (ended["call_id"], ended["code"]) == (begun["call_id"], "INVALID_ARGUMENT")
    head = begun["about"]["facts"][0]["head"]
    assert (set(head), head["kind"]) == ({"kind", "user"}, kind)
    assert USER not in guarded.audit.read_text()


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    write = os.write

    def full(file: int, content: bytes) -> int:
        if len(content) <= 10:
            raise OSError(errno.ENOSPC, "full")
        return write(file, content[:-10])

    with monkeypatch.context() as patched:
        patched.setattr("os.write", full)
        with pytest.raises(AuditError):
            audit.write(call_id="1", caller="c", method="m", request_id="")
    audit.write(call_id="2", caller="c", method="m", request_id="")
    audit.close()
    _, whole = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(whole)["call_id"] == "2"


ERASED = "kgrank.v1.UserService.EraseUser"


def erase(audit: Audit) -> None:
    told = {"call_id": "1", "caller": "c", "method": ERASED, "request_id": ""}
    audit.write(**told, state="begun", about={"user": audit.pseudonym(USER)})
    audit.write(**told, state="ended", code="OK")


def ended_well(found: list[RecordedErasure]) -> bool:
    return [each.code for each in found] == ["OK"]


def test_what_another_process_left_of_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"at": "2026-01-01T00:00:00.000+00:00", "call')  # and a server that was started again
    audit = Audit(path)
    erase(audit)
    assert ended_well(erasures(path, USER))
    with path.open("a") as other:
        other.write('{"at": "2026')
    erase(audit)
    audit.close()
    assert [line for line in path.read_text().splitlines() if not line.endswith("}")] == [
        '{"at": "2026-01-01T00:00:00.000+00:00", "call',
        '{"at": "2026',
    ]
    assert ended_well(erasures(path, USER))


def test_a_log_that_is_moved_or_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write(call_id="0", caller="c", method="m", request_id="")
    path.rename(tmp_path / "audit.jsonl.1")
    erase(audit)
    assert ended_well(erasures(path, USER))
    assert [line["call_id"] for line in lines(tmp_path / "audit.jsonl.1")] == ["0"]
    path.unlink()
    erase(audit)
    audit.close()
    assert ended_well(erasures(path, USER))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_can_t_be_begun_anew_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    audit = Audit(path)
    path.parent.rename(tmp_path / "moved")
    with pytest.raises(AuditError):
        erase(audit)
    (tmp_path / "moved").rename(path.parent)
    erase(audit)
    audit.close()
    assert ended_well(erasures(path, USER))


def test_a_log_that_is_closed_writes_nothing_any_more(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.close()
    with (tmp_path / "other").open("wb"):  # has the number that the log had
        (tmp_path / "audit.jsonl").unlink()
        with pytest.raises(AuditError):
            erase(audit)
    assert (tmp_path / "other").read_bytes() == b""
    assert not (tmp_path / "audit.jsonl").exists()


def test_what_may_not_be_done_and_what_is_only_read_is_not_on_record(guarded: Guarded) -> None:
    with guarded.client(Role.READ) as reader:
        before = len(lines(guarded.audit)) if guarded.audit.exists() else 0
        reader.recommend("user-01")
        reader.list_models()
        with structlog.testing.capture_logs() as logged, pytest.raises(DeniedError):
            reader.activate_model("models/any")
    assert [(each["caller"], each["role"]) for each in logged if each["event"] == "denied"] == [("tester", "admin")]
    assert len(lines(guarded.audit)) == before


@pytest.mark.parametrize("method", [m for m in methods() if need_of(m.full_name).audited], ids=lambda m: m.name)
def test_the_record_of_no_call_names_a_person(method: MethodDescriptor, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    request = GetMessageClass(method.input_type)()
    personal = [field for field in request.DESCRIPTOR.fields if field.name == "user_id"]
    for field in personal:
        setattr(request, field.name, USER)
    about = audit.about(request)
    audit.write(call_id="1", caller="c", method=method.full_name, request_id="", about=about)
    audit.close()
    assert USER not in (tmp_path / "audit.jsonl").read_text()
    assert about == ({"user": audit.pseudonym(USER)} if personal else {})


def test_the_same_user_has_the_same_name_in_the_record_and_another_where_the_key_is_another(tmp_path: Path) -> None:
    first, again, other = (Audit(tmp_path / name) for name in ("a.jsonl", "a.jsonl", "b.jsonl"))
    assert first.pseudonym(USER) == again.pseudonym(USER) != other.pseudonym(USER)
    for each in (first, again, other):
        each.close()


def test_what_can_t_be_recorded_is_not_done(home: Path, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")  # a disk that is always full
    with running(home, access={"audit_file": tmp_path / "audit.jsonl"}) as server, Client(server.target) as client:
        active = client.recommend("user-01", k=1).model_version
        other = next(version for version in shop.versions if version != active)
        with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
            ModelServiceStub(channel).ActivateModel(ActivateModelRequest(name=f"models/{other}"), timeout=20)
        assert decode(refused.value).reason == "AUDIT_FAILED"
        assert client.recommend("user-01", k=1).model_version == active


def test_a_record_that_can_t_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    audit = Audit(tmp_path / "audit.jsonl")
    with pytest.raises(AuditError):
        audit.write(call_id="1", caller="c", method="m", request_id="")
    audit.close()


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl.key").write_bytes(b"")  # a full disk, once
    with pytest.raises(ConfigError, match="has 0 bytes; it needs 64"):
        Audit(tmp_path / "audit.jsonl")


def test_audits_that_begin_together_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        audits = list(threads.map(lambda _: Audit(tmp_path / "audit.jsonl"), range(16)))
    assert len({each.pseudonym(USER) for each in audits}) == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["audit.jsonl", "audit.jsonl.key"]
    assert (tmp_path / "audit.jsonl.key").stat().st_mode & 0o077 == 0
    for each in audits:
        each.close()
