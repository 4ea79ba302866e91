import io
import json
import sys
from pathlib import Path

import grpc
import pytest

from server.access.audit import Audit, erasures
from tests.server.command import CommandLine, Done


def test_a_profile_is_shown(served: str, tmp_path: Path, kgrank: CommandLine) -> None:
    shown = kgrank(tmp_path, "user", "profile", "user-10", "--target", served)
    assert shown.code == 0
    assert "Bolt" in shown.out
    asked = kgrank(tmp_path, "user", "profile", "user-10", "--days", "1", "--json", "--target", served)
    assert '"interaction_count": 0' in asked.out


def test_an_id_need_not_stand_in_the_arguments(
    served: str, tmp_path: Path, kgrank: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_input(text: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return kgrank(tmp_path, *arguments, "--target", served)

    assert "Bolt" in with_input("user-10\n", "user", "profile", "-").out
    assert "For user-10 (warm)" in with_input("user-10", "recommend", "-").out
    assert "for user-10" in with_input("user-10\n", "search", "bolt", "--user", "-").out
    nothing = with_input("", "recommend", "-")
    assert (nothing.code, "standard input has no line with a user's id" in nothing.err) == (2, True)
    latin = with_input("caf\udce9\n", "recommend", "-")
    assert (latin.code, "standard input is not UTF-8 text" in latin.err) == (2, True)


def test_what_the_server_refuses_is_one_sentence(served: str, tmp_path: Path, kgrank: CommandLine) -> None:
    unknown = kgrank(tmp_path, "user", "profile", "nobody", "--target", served)
    assert (unknown.code, "NOT_FOUND" in unknown.err) == (1, True)
    for command in (("export", "user-10"), ("erase", "user-10", "--yes")):
        refused = kgrank(tmp_path, "user", *command, "--target", served)
        assert refused.code == 1
        assert "without a graph" in refused.err


def recorded(home: Path, user_id: str, code: str | None) -> None:
    """Put an erasure on record as a server does; one that was killed meanwhile has no end."""
    audit = Audit(home / "audit.jsonl")
    told = {"call_id": f"{user_id} {code}", "caller": "backend", "method": "kgrank.v1.UserService.EraseUser"}
    audit.write(**told, request_id="", state="begun", about={"user": audit.pseudonym(user_id)})
    if code is not None:
        audit.write(**told, request_id="", state="ended", code=code)
    audit.close()


def test_whoever_was_erased_is_found_in_the_record_and_nobody_else(tmp_path: Path, kgrank: CommandLine) -> None:
    recorded(tmp_path, "user-10", "UNAVAILABLE")
    recorded(tmp_path, "user-10", "OK")
    recorded(tmp_path, "user-11", "UNAVAILABLE")
    recorded(tmp_path, "user-12", None)
    recorded(tmp_path, "user-14", "OK")
    recorded(tmp_path, "user-14", "UNAVAILABLE")  # who had come back since
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"at": "2030-01-01T00:00", "method": "kgrank.v1.UserService.EraseUser", "cal\n')  # cut short
    last = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[3])
    found = kgrank(tmp_path, "user", "erased", "user-10")
    assert (found.code, found.out.splitlines()[-1]) == (0, f"{last['at']}: erased, by backend")
    told = json.loads(kgrank(tmp_path, "user", "erased", "user-10", "--json").out)
    assert (told["erased"], [call["code"] for call in told["calls"]]) == (True, ["UNAVAILABLE", "OK"])
    others = {"user-11": ["UNAVAILABLE"], "user-12": [""], "user-13": [], "user-14": ["OK", "UNAVAILABLE"]}
    for user_id, codes in others.items():
        asked = kgrank(tmp_path, "user", "erased", user_id, "--json")
        told = json.loads(asked.out)
        assert (asked.code, told["erased"], [call["code"] for call in told["calls"]]) == (4, False, codes)
        assert "not erased, by the record of this host" in kgrank(tmp_path, "user", "erased", user_id).err


def test_whoever_a_server_has_erased_after_the_call_counts_as_erased(tmp_path: Path, kgrank: CommandLine) -> None:
    recorded(tmp_path, "user-10", "UNAVAILABLE")
    recorded(tmp_path, "user-11", None)
    audit = Audit(tmp_path / "audit.jsonl")
    audit.erasure_finished("user-10", grpc.StatusCode.OK)
    audit.erasure_finished("user-11", grpc.StatusCode.UNAVAILABLE)  # but for a snapshot
    audit.close()
    found = kgrank(tmp_path, "user", "erased", "user-10")
    assert found.code == 0
    assert found.out.splitlines()[-1].endswith(": erased, by the server, which had it written down")
    told = json.loads(kgrank(tmp_path, "user", "erased", "user-10", "--json").out)
    assert [(call["code"], call["by_server"]) for call in told["calls"]] == [("UNAVAILABLE", False), ("OK", True)]
    assert kgrank(tmp_path, "user", "erased", "user-11").code == 4


def test_an_erasure_that_began_before_another_and_ended_after_it_is_the_last(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    about = {"user": audit.pseudonym("user-10")}
    told = {"caller": "backend", "method": "kgrank.v1.UserService.EraseUser", "request_id": ""}
    audit.write(**told, call_id="1", state="begun", about=about)
    audit.write(**told, call_id="2", state="begun", about=about)
    audit.write(**told, call_id="2", state="ended", code="UNAVAILABLE")
    audit.write(**told, call_id="1", state="ended", code="OK")
    audit.close()
    assert [call.code for call in erasures(tmp_path / "audit.jsonl", "user-10")] == ["UNAVAILABLE", "OK"]


@pytest.mark.parametrize("lacks", ["audit.jsonl", "audit.jsonl.key"])
def test_without_log_or_key_it_can_t_be_told_and_none_is_made(lacks: str, tmp_path: Path, kgrank: CommandLine) -> None:
    recorded(tmp_path, "user-10", "OK")
    (tmp_path / lacks).unlink()
    left = sorted(tmp_path.iterdir())
    asked = kgrank(tmp_path, "user", "erased", "user-10", "--json")
    assert (asked.code, asked.out) == (1, "")
    assert str(tmp_path / lacks) in asked.err
    assert "user-10" not in asked.err
    assert sorted(tmp_path.iterdir()) == left
    assert kgrank(tmp_path / "elsewhere", "user", "erased", "user-10").code == 1
    assert not (tmp_path / "elsewhere").exists()
