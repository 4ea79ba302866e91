"""`kgrank score`: the model's own lists, for everybody, through any kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kg.erasure import Erasure, user_key
from kg.redaction import are_erased, redact_all
from kg.vocabulary import Vocabulary
from model.artifact import load_artifact
from model.ranker import top_k
from model.scoring import full_scores
from tests.server.command import CommandLine, kgrank
from tests.server.shop import Shop

__all__ = ["kgrank"]

RUN = "from server.main import main; main()"
# Dies without a chance to clean up, while the third part is written but not yet in place.
KILL_AT_THE_THIRD_PART = """
import os, signal
from pathlib import Path

rename = Path.replace

def replace(self, target):
    if target.name == "part-00002.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
"""


def score(kgrank: CommandLine, home: Path, *arguments: str) -> dict[str, object]:
    done = kgrank(home, "score", "--json", *arguments)
    assert done.code == 0, done.err
    told: dict[str, object] = json.loads(done.out)
    return told


def read(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))])


def test_a_killed_run_goes_on_to_the_same_result(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    arguments = ("--k", "5", "--reasons", "--part-users", "6")
    command = [sys.executable, "-c", KILL_AT_THE_THIRD_PART + RUN, "score", *arguments, "--out", str(tmp_path / "out")]
    # As many threads as here: the order of a sum is not the same on one thread as on two.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "KGRANK_HOME": str(shop.home), "OMP_NUM_THREADS": threads}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=280, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert score(kgrank, shop.home, *arguments, "--out", str(tmp_path / "out"))["parts_found"] == 2
    score(kgrank, shop.home, *arguments, "--out", str(tmp_path / "whole"))
    assert read(tmp_path / "out").equals(read(tmp_path / "whole"))
    assert not list((tmp_path / "out").glob(".*"))


def test_the_lists_are_the_models_own_best(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    version = shop.versions[0]
    told = score(kgrank, shop.home, "--k", "7", "--artifact", version, "--out", str(tmp_path / "all.parquet"))
    assert told["model_version"] == version
    table = pq.read_table(tmp_path / "all.parquet")
    artifact, snapshot = load_artifact(shop.home / "artifacts" / version), shop.snapshot
    now_ms = np.full(len(snapshot.users), snapshot.as_of_ms)
    with torch.inference_mode():
        scores = full_scores(artifact.scorer, artifact.scorer.encode_users(snapshot.histories, now_ms)).numpy()
    products, values = top_k(scores, 7, seen=snapshot.histories)
    assert table["user_id"].to_pylist() == np.repeat(snapshot.users.array.to_pylist(), 7).tolist()
    assert table["rank"].to_pylist() == list(range(1, 8)) * len(snapshot.users)
    assert table["product_id"].to_pylist() == snapshot.products.ids(products.ravel())
    assert table["score"].to_numpy() == pytest.approx(values.ravel(), rel=1e-5)
    assert set(table["model_version"].to_pylist()) == {version}


def test_reasons_lead_from_the_user_to_the_product(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    score(kgrank, shop.home, "--k", "3", "--reasons", "--out", str(tmp_path / "all.parquet"))
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert sum(bool(row["reasons"]) for row in rows) > len(rows) / 2
    for row in rows:
        for reason in row["reasons"]:
            assert reason["nodes"][0] == {"kind": "user", "id": row["user_id"], "name": "you"}
            assert reason["nodes"][-1]["id"] == row["product_id"]
            assert len(reason["edges"]) == len(reason["nodes"]) - 1
            assert reason["text"].startswith("You bought ")


def test_a_list_of_users_has_a_cold_answer_for_a_stranger(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("user-03\nstranger\nuser-03\nuser-01\n", encoding="utf-8-sig")  # as Excel does
    score(
        kgrank, shop.home, "--k", "4", "--users", str(tmp_path / "users.txt"), "--out", str(tmp_path / "some.parquet")
    )
    users = pq.read_table(tmp_path / "some.parquet")["user_id"].to_pylist()
    assert list(dict.fromkeys(users)) == ["user-03", "stranger", "user-01"]
    assert len(users) == 12


def test_a_line_ends_where_a_text_file_says_it_does(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_bytes("ann\u2028lee\r\nbob\x85\nuser-03".encode())
    score(
        kgrank, shop.home, "--k", "1", "--users", str(tmp_path / "users.txt"), "--out", str(tmp_path / "some.parquet")
    )
    assert pq.read_table(tmp_path / "some.parquet")["user_id"].to_pylist() == ["ann\u2028lee", "bob\x85", "user-03"]


def test_a_file_is_made_once_and_nothing_else_is_written_over(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    arguments = ("--k", "2", "--part-users", "20", "--out", str(out))
    assert score(kgrank, shop.home, *arguments)["parts_found"] == 0
    made = out.stat().st_ino
    assert score(kgrank, shop.home, *arguments)["parts_found"] == 3
    assert out.stat().st_ino == made
    refused = kgrank(shop.home, "score", "--k", "3", "--out", str(out))
    assert refused.code == 1
    assert "exists already" in refused.err


def test_nobody_has_a_list_in_the_place_of_an_erased_user(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    home = shutil.copytree(shop.home, tmp_path / "home")
    snapshot = shop.snapshot
    assert redact_all(home / "snapshots", [Erasure(user_key("user-03"), snapshot.commit + 1, 0)]) == 1
    told = score(kgrank, home, "--k", "2", "--reasons", "--out", str(tmp_path / "all.parquet"))
    listed = pq.read_table(tmp_path / "all.parquet")["user_id"].to_pylist()
    assert told["users"] == len(snapshot.users) - 1
    assert list(dict.fromkeys(listed)) == [each for each in snapshot.users.array.to_pylist() if each != "user-03"]


def test_a_shops_own_id_is_never_taken_for_an_erased_one(shop: Shop) -> None:
    snapshot = shop.snapshot
    own = Vocabulary([f"erased-{row:032x}" for row in range(len(snapshot.users))])
    assert not are_erased(own).any()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "has no user id"), (b"a\n\nb\n", "line 2: the user id is empty"), (b"\xff", "is not UTF-8 text")],
)
def test_a_bad_list_of_users_is_one_clear_error(
    kgrank: CommandLine, shop: Shop, tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "users.txt").write_bytes(content)
    done = kgrank(shop.home, "score", "--users", str(tmp_path / "users.txt"), "--out", str(tmp_path / "out"))
    assert done.code == 1
    assert problem in done.err
    assert "Traceback" not in done.err


def test_an_unknown_model_names_those_that_there_are(kgrank: CommandLine, shop: Shop, tmp_path: Path) -> None:
    done = kgrank(shop.home, "score", "--artifact", "../x", "--out", str(tmp_path / "out"))
    assert done.code == 1
    assert shop.versions[0] in done.err
