"""RecBole's atomic files: a small data set by hand, and a real one with a Freebase graph."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.compute as pc
import pytest

from kg.errors import DataError
from kg.quality import check, clean
from kg.quality.policy import Policy
from kg.sources.names import relation_name
from kg.sources.recbole import read_recbole
from kg.sources.recbole_fields import Fields

FILES = {
    "shop.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "u1\ti1\t4\t881250949\nu2\ti2\t3.5\t891717742\n",
    "shop.item": "item_id:token\tmovie_title:token_seq\tgenre:token_seq\tyear:token\tvector:float_seq\tprice:float\n"
    'i1\tThe "Big" One\tDrama War\t1995\t0.1 0.2\t9.5\ni2\tTwo\t\t\t\t\n',
    "shop.user": "user_id:token\tage:token\nu1\t24\nu2\t\n",
    "shop.kg": "head_id:token\trelation_id:token\ttail_id:token\n"
    "m.1\tfilm.film.genre\tm.9\nm.2\tfilm.film.sequel\tm.1\n",
    "shop.link": "item_id:token\tentity_id:token\ni1\tm.1\ni2\tm.2\n",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_atomic_files_become_canonical_tables(shop: Path) -> None:
    result = clean(read_recbole(shop), Policy(strict=True))
    events = result.tables.interactions.to_pylist()
    assert [(row["user_id"], row["product_id"], row["type"], row["value"], row["at_ms"]) for row in events] == [
        ("u1", "i1", "rate", 4.0, 881_250_949_000),
        ("u2", "i2", "rate", 3.5, 891_717_742_000),
    ]
    products = result.tables.products.to_pylist()
    assert [(row["title"], row["price"], dict(row["attributes"])) for row in products] == [
        ('The "Big" One', 9.5, {"year": "1995"}),
        ("Two", None, {}),
    ]
    assert [dict(row["attributes"]) for row in result.tables.users.to_pylist()] == [{"age": "24"}, {}]
    facts = {tuple(row.values()) for row in result.tables.facts.to_pylist()}
    assert facts == {
        ("i1", "HAS_GENRE", "Drama", "product", "genre"),
        ("i1", "HAS_GENRE", "War", "product", "genre"),
        ("i1", "FILM_FILM_GENRE", "m.9", "product", "entity"),
        ("i2", "FILM_FILM_SEQUEL", "i1", "product", "product"),
    }
    assert "shop.item: not used: vector" in result.report.notes


def test_one_file_names_the_data_set(shop: Path) -> None:
    (shop / "other.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(DataError, match=r"several \.inter files"):
        read_recbole(shop)
    assert len(clean(read_recbole(shop / "shop.inter")).tables.products) == 2


def test_a_data_set_may_be_named_as_a_pattern(tmp_path: Path) -> None:
    for name in ("ml[1].inter", "ml1.item"):
        (tmp_path / name).write_text(FILES[f"shop{Path(name).suffix}"])
    assert set(read_recbole(tmp_path / "ml[1].inter").tables) == {"interactions"}


def test_several_values_of_a_column_do_not_copy_the_others(tmp_path: Path) -> None:
    # A title for each fact would be more than one array holds.
    genres = " ".join(f"g{number}" for number in range(2_000))
    rows = [f"i{number}\t{'t' * 40_000}\t{genres}" for number in range(30)]
    text = "\n".join(["item_id:token\ttitle:token_seq\tgenre:token_seq", *rows])
    (tmp_path / "x.item").write_text(text)
    assert len(read_recbole(tmp_path).tables["facts"].rows) == 30 * 2_000


def test_other_names_are_found_or_given(tmp_path: Path) -> None:
    path = tmp_path / "plays.inter"
    path.write_text("listener:token\tartist_id:token\tweight:float\tday:float\na\tx\t7\t1500000000000\n")
    raw = read_recbole(path, Fields(time="day", type="view"))
    event = clean(raw).tables.interactions.to_pylist()[0]
    assert (event["user_id"], event["product_id"], event["value"], event["type"]) == ("a", "x", 7.0, "view")
    assert event["at_ms"] == 1_500_000_000_000
    with pytest.raises(DataError, match="has no column 'when'"):
        read_recbole(path, Fields(time="when"))


def test_interactions_without_a_time_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plays.inter"
    path.write_text("user_id:token\titem_id:token\na\tx\na\ty\n")
    result = clean(read_recbole(path))
    assert result.tables.interactions["at_ms"].to_pylist() == [0, 0]
    assert result.tables.interactions["position"].to_pylist() == [0, 1]
    assert "has no time" in result.report.notes[0]


def test_rows_with_label_0_are_no_clicks(tmp_path: Path) -> None:
    path = tmp_path / "clicks.inter"
    path.write_text(
        "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n"
        "u\ti\t0\t1500000000\nu\tj\t1\t1500000000\nu\tk\t-1.0\t1500000000\nu\tl\tx\t1500000000\n"
    )
    raw = read_recbole(path)
    assert raw.left_out == {"rows with label 0": 2}
    assert any("rows with 0 are left out" in note for note in raw.notes)
    result = check(raw, Policy())
    assert [(row["product_id"], row["type"]) for row in result.tables.interactions.to_pylist()] == [("j", "click")]
    assert [(row["line"], row["field"], row["rule"]) for row in result.refused.to_pylist()] == [(5, "value", "type")]
    assert not read_recbole(path, Fields(rating="label")).left_out
    path.write_text("user_id:token\titem_id:token\tlabel:float\tcount:float\nu\ti\t0\t3\nu\tj\t1\t4\n")
    raw = read_recbole(path)
    assert raw.left_out == {"rows with label 0": 1}
    assert raw.tables["interactions"].rows["value"].to_pylist() == [b"4"]


def test_what_is_not_utf8_is_refused_and_not_lost(tmp_path: Path) -> None:
    text = "item_id:token\ttitle:token\tcolour:token\tgenre:token_seq\ni1\tA\trosé\tCafé Bar\ni2\tB\tred\tBar\n"
    (tmp_path / "x.item").write_bytes(text.encode("latin-1"))
    (tmp_path / "x.kg").write_bytes(
        "head_id:token\trelation_id:token\ttail_id:token\né\tis\te2\ne1\té\te2\ne1\tis\té\n".encode("latin-1")
    )
    result = check(read_recbole(tmp_path), Policy())
    assert [(row["file"], row["line"], row["field"], row["rule"]) for row in result.refused.to_pylist()] == [
        ("x.item", 2, "attributes", "encoding"),
        ("x.kg", 2, "head", "encoding"),
        ("x.kg", 3, "relation", "encoding"),
        ("x.item", 2, "tail", "encoding"),
        ("x.kg", 4, "tail", "encoding"),
    ]
    assert [dict(row["attributes"]) for row in result.tables.products.to_pylist()] == [{"colour": "red"}]


def test_graph_without_links_has_no_products(tmp_path: Path) -> None:
    (tmp_path / "x.kg").write_text(FILES["shop.kg"])
    facts = clean(read_recbole(tmp_path)).tables.facts
    assert set(facts["head_kind"].to_pylist()) == {"entity"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.inter", "user_id\titem_id\nu\ti\n", "column 'user_id' has no type"),
        ("x.inter", "user_id:token,item_id:token\nu,i\n", "has a comma in it"),
        ("x.inter", "user_id:token\nu\n", "no user and item column"),
        ("x.kg", "head_id:token\ttail_id:token\na\tb\n", "has no column relation_id"),
        ("x.inter", "", "is empty"),
        ("x.inter", "user_id:token\titem_id:token\titem_id:float\nu\ti\t1\n", "column 'item_id' too many"),
        ("x.inter", "user_id:token\titem_id:token\t_line:float\nu\ti\t1\n", "column '_line' too many"),
        ("readme.txt", "hello", "has no RecBole files"),
    ],
)
def test_broken_atomic_file_is_one_clear_error(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        check(read_recbole(tmp_path), Policy())


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("film.film.genre", "FILM_FILM_GENRE"),
        ("also bought", "ALSO_BOUGHT"),
        ("3d", "R_3D"),
        ("--", "--"),
        ("A__B", "A__B"),
        ("has 颜色", "has 颜色"),
        ("Größe", "Größe"),
        ("a–b…", "A_B"),
    ],
)
def test_relation_names_are_normalised(name: str, normal: str) -> None:
    assert relation_name(name) == normal


def test_real_ml_100k_with_its_freebase_graph(pytestconfig: pytest.Config) -> None:
    folder = _ml_100k(pytestconfig.cache.mkdir("recbole-1.2.1"))
    result = clean(read_recbole(folder), Policy(strict=True))
    assert {name: len(table) for name, table in result.tables} == {
        "interactions": 100_000,
        "products": 1682,
        "facts": 94_524,
        "users": 943,
    }
    facts = result.tables.facts
    films = facts.filter(pc.equal(facts["relation"], "FILM_FILM_GENRE"))
    assert len(films) == 7184
    assert set(films["head_kind"].to_pylist()) == {"product"}


def _ml_100k(cache: Path) -> Path:
    """Return the data set inside the recbole wheel, which is fetched once and kept in pytest's cache."""
    folder = cache / "recbole" / "dataset_example" / "ml-100k"
    if not folder.is_dir():
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--retries",
            "1",
            "--dest",
            str(cache),
            "recbole==1.2.1",
        ]
        done = subprocess.run(fetch, check=False, capture_output=True, text=True)  # pip ends its own waits
        wheels = list(cache.glob("recbole-*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"the recbole wheel can't be had: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = [name for name in wheel.namelist() if "/ml-100k/" in name]
            wheel.extractall(cache, names)
    return folder
