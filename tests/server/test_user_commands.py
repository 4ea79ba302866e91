from pathlib import Path

from tests.server.command import CommandLine


def test_a_profile_is_shown(served: str, tmp_path: Path, kgrank: CommandLine) -> None:
    shown = kgrank(tmp_path, "user", "profile", "user-10", "--target", served)
    assert shown.code == 0
    assert "Bolt" in shown.out
    asked = kgrank(tmp_path, "user", "profile", "user-10", "--days", "1", "--json", "--target", served)
    assert '"interaction_count": 0' in asked.out


def test_what_the_server_refuses_is_one_sentence(served: str, tmp_path: Path, kgrank: CommandLine) -> None:
    unknown = kgrank(tmp_path, "user", "profile", "nobody", "--target", served)
    assert (unknown.code, "NOT_FOUND" in unknown.err) == (1, True)
    for command in (("export", "user-10"), ("erase", "user-10", "--yes")):
        refused = kgrank(tmp_path, "user", *command, "--target", served)
        assert refused.code == 1
        assert "without a graph" in refused.err
