"""What a test run does where the embedded Neo4j's jars can't be had: it says so, and never passes by a wrong one."""

import os
from pathlib import Path

import pytest

from kg.errors import GraphError, JarFetchError
from tests.conftest import jars_or_skip


@pytest.mark.parametrize(("ci", "fails"), [(None, False), ("1", True)])
def test_what_needs_neo4j_is_skipped_only_where_it_cannot_be_fetched_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str | None, fails: bool
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(JarFetchError if fails else pytest.skip.Exception, match="can't be fetched"):
        jars_or_skip()


def test_a_jar_that_is_another_one_is_no_reason_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neo4j_jars: list[Path]
) -> None:
    from jgo.maven import Artifact

    repository = Path(os.environ.get("M2_REPO", Path.home() / ".m2" / "repository"))
    for jar in neo4j_jars:
        link = tmp_path / jar.relative_to(repository)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(jar)
    absent = tmp_path / neo4j_jars[0].relative_to(repository)
    absent.unlink()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    monkeypatch.setattr(Artifact, "resolve", lambda artifact: artifact.cached_path.write_bytes(b"not the jar"))
    with pytest.raises((GraphError, pytest.skip.Exception)) as stopped:
        jars_or_skip()
    assert stopped.type is GraphError
    assert f"{absent.name} is not the one that neo4j.lock.toml names: its SHA-256 differs" in str(stopped.value)
