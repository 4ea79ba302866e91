"""Data sets that are fetched: folders inside of one wheel, and a fetch that does not end."""

import zipfile
from pathlib import Path

import pytest

from model.compare import data
from model.compare.data import DataConfig, MissingDataError, read_snapshot

FOLDERS = ("sets/one", "sets/two")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip fetches from, with a wheel that holds two data sets."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    about = "some_sets-1.0.dist-info"
    with zipfile.ZipFile(folder / "some_sets-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: some-sets\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
        for number, inside in enumerate(FOLDERS, start=3):
            rows = "".join(f"u{row}\ti{row}\t{row}\n" for row in range(number))
            name = Path(inside).name
            wheel.writestr(f"{inside}/{name}.inter", f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def users(inside: str, cache: Path) -> int:
    config = DataConfig(source="recbole", folder=Path(inside), wheel="some-sets==1.0")
    return len(read_snapshot(config, cache, cache, cache).users)


def test_every_folder_of_a_wheel_can_be_had_and_is_fetched_once(wheels: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert [users(inside, cache) for inside in FOLDERS] == [3, 4]
    next(wheels.iterdir()).unlink()
    assert [users(inside, cache) for inside in FOLDERS] == [3, 4]
    with pytest.raises(MissingDataError, match=r"package some-sets==1\.0 can't be fetched: "):
        users("sets/three", cache)


def test_a_fetch_that_does_not_end_is_missing_data(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_FETCH_S", 0.01)
    cache = tmp_path / "cache"
    with pytest.raises(MissingDataError, match=r"some-sets==1\.0 can't be fetched: it did not come in 0\.01 s"):
        users(FOLDERS[0], cache)
    assert not list(cache.glob("wheels/*/*"))  # it would pass for a folder that was fetched
