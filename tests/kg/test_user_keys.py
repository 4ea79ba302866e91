"""Erased users among many: found as by looking at each, with every key made once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg import user_keys
from kg.erasure import Erasure, user_key
from kg.freeze import freeze
from kg.redaction import redact_all
from kg.snapshot import Snapshot
from kg.user_keys import KeysOfFiles, SortedKeys, UserKeys
from kg.vocabulary import Vocabulary
from tests.kg.small_tables import event, tables

IDS = st.text("abc", min_size=1, max_size=3)


@given(st.lists(IDS, unique=True), st.sets(IDS))
def test_those_who_are_found_are_those_whose_keys_are_asked_for(users: list[str], asked: set[str]) -> None:
    known = UserKeys(Vocabulary(sorted(users)))
    assert known.among({user_key(each) for each in asked}) == asked & set(users)


def test_keys_that_begin_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_keys, "user_key", lambda user_id: f"{'0' * 16}{ord(user_id):016x}")
    assert UserKeys(Vocabulary(list("abcd"))).among([f"{'0' * 16}{ord('c'):016x}", "f" * 32]) == {"c"}


def test_who_has_another_id_since_is_not_found_by_the_one_before() -> None:
    keys = SortedKeys.of(Vocabulary(["ann", "bob"]))
    asked = [user_key("ann"), user_key("bob")]
    assert keys.among(Vocabulary(["erased-1", "bob"]), asked) == {"bob"}


def test_the_users_of_a_snapshot_are_looked_at_once_for_many_erasures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"user-{place}" for place in range(50)]
    rows = [event(each, each, "a") for each in names]
    freeze(tables(products=[{"product_id": "a"}], interactions=rows)).save(tmp_path / "one")
    made: list[str] = []

    def counted(user_id: str) -> str:
        made.append(user_id)
        return user_key(user_id)

    monkeypatch.setattr(user_keys, "user_key", counted)
    keys = KeysOfFiles()
    for commit, gone in enumerate(names[:5], 1):
        assert redact_all(tmp_path, [Erasure(user_key(gone), commit, 0)], keys) == 1
        assert redact_all(tmp_path, [Erasure(user_key("nobody"), commit, 0)], keys) == 0
    left = set(Snapshot.open(tmp_path / "one").users.array.to_pylist())
    assert left & set(names) == set(names[5:])
    assert len(made) == len(names) + 5, "each user once, and each who was found once more"


def test_a_snapshot_in_the_place_of_another_is_looked_at_anew(tmp_path: Path) -> None:
    keys = KeysOfFiles()
    for user_id in ("ann", "bob"):
        rows = [event("e1", user_id, "a")]
        snapshot = freeze(tables(products=[{"product_id": "a"}], interactions=rows))
        snapshot.save(tmp_path / "new")
        (tmp_path / "one").rename(tmp_path / "old") if (tmp_path / "one").exists() else None
        (tmp_path / "new").rename(tmp_path / "one")
        assert redact_all(tmp_path, [Erasure(user_key(user_id), 1, 0)], keys) == 1
