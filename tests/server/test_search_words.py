"""The words that are searched: in every form of Unicode, mended in place, of the catalogue as it is now."""

import random
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import tantivy
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from kg.extending import CatalogueChange, extended
from kg.freeze import freeze
from kg.snapshot import Snapshot
from kg.tables import FACTS, INTERACTIONS, PRODUCTS, Tables
from server.question import Fit
from server.search.finder import Asked, Finder
from server.search.lexicon import Lexicon
from server.search.spelling import Speller
from server.search.tokens import normalised, typed_words, words_in_place
from server.search.words import MOST_WORDS, WordIndex


def rows(titles: dict[str, str]) -> pa.Table:
    rest = {"description": "", "brand": "", "category": [], "attributes": []}
    products = [{"product_id": each, "title": title, **rest} for each, title in titles.items()]
    return pa.Table.from_pylist(products, PRODUCTS)


def catalogue_of(*titles: str) -> Snapshot:
    """Return a snapshot of products `p0`, `p1` and so on."""
    products = rows({f"p{number}": title for number, title in enumerate(titles)})
    return freeze(Tables(interactions=INTERACTIONS.empty_table(), products=products))


def changed(snapshot: Snapshot, titles: dict[str, str] | None = None, deleted: Sequence[str] = ()) -> Snapshot:
    change = CatalogueChange(rows(titles or {}), FACTS.empty_table(), tuple(deleted))
    return extended(snapshot, change).snapshot


def found(finder: Finder, snapshot: Snapshot, query: str) -> Fit:
    """Return what fits a query, asked for as a server does."""
    allowed = np.ones(len(snapshot.products), np.bool_)
    allowed[snapshot.products.taken_out] = False
    return finder.find([Asked(query, 10, allowed)])[0]


def test_a_deleted_product_counts_no_more_in_how_well_others_fit() -> None:
    before = catalogue_of("Zebra zebra lamp", "A lamp of brass for the hall", "Teapot", "Chair")
    after = changed(before, deleted=["p0"])
    fresh = Finder(WordIndex.build(after), None, None)
    gone_on = Finder(WordIndex.build(before).following(after), None, None)
    for finder in (fresh, gone_on):
        fit = found(finder, after, "zebra lamp")
        assert (fit.product_index.tolist(), fit.fit.tolist()) == ([1], [1.0])


def test_nothing_is_mended_to_a_word_that_no_product_has_any_more() -> None:
    before = catalogue_of("Zebra lamp", "Zebra chair", "Teapot")
    one_left, none_left = changed(before, deleted=["p0"]), changed(before, deleted=["p0", "p1"])
    words = WordIndex.build(before).following(one_left)
    assert found(Finder(words, None, None), one_left, "zebr chair").corrected == "zebra chair"
    words = words.following(none_left)
    assert found(Finder(words, None, None), none_left, "zebr teapott").corrected == "zebr teapot"
    back = changed(none_left, {"p0": "Zebra lamp"})
    assert found(Finder(words.following(back), None, None), back, "zebr").corrected == "zebra"
    assert words.following(back).find("zebra", 3)[0].tolist() == [0]
    assert "zebra" not in words.vocabulary


def test_after_any_changes_the_words_are_those_of_a_new_index() -> None:
    generator = random.Random(4)
    stock = [f"{first}{second}" for first in ("bra", "cla", "dro", "fen") for second in ("mp", "nd", "sk", "ts", "xi")]

    def title() -> str:
        return " ".join(generator.choices(stock, k=3))

    snapshot = catalogue_of(*(title() for _ in range(12)))
    words = WordIndex.build(snapshot)
    for step in range(30):
        put_in = {f"p{generator.randrange(12 + step)}": title() for _ in range(generator.randrange(3))}
        deleted = {f"p{generator.randrange(12 + step)}" for _ in range(generator.randrange(3))} - put_in.keys()
        snapshot = changed(snapshot, put_in, sorted(deleted))
        words, anew = words.following(snapshot), WordIndex.build(snapshot)
        for word in stock:
            assert words.vocabulary.products(word) == anew.vocabulary.products(word)
            assert (word in words.vocabulary) == (word in anew.vocabulary)
            assert sorted(words.vocabulary.near(word, 1)) == sorted(anew.vocabulary.near(word, 1))
            assert sorted(words.find(word, 50)[0]) == sorted(anew.find(word, 50)[0])


@given(st.sets(st.text("abcdeé咖1", min_size=1, max_size=9), max_size=40), st.text("abcdeé咖", min_size=4, max_size=9))
def test_all_that_are_near_come_into_question(words: set[str], asked: str) -> None:
    half, other = sorted(words)[::2], sorted(words)[1::2]
    grown = Lexicon(dict.fromkeys([*half, "gone"], 2)).changed({"gone": 2}, dict.fromkeys(other, 1))
    for lexicon in (Lexicon(dict.fromkeys(words, 1)), grown):
        for most in (1, 2):
            near = lexicon.near(asked, most)
            assert set(near) <= words
            exact = {each for each in words if not each.isdigit() and OSA.distance(asked, each) <= most}
            assert exact <= set(near)
            assert len(near) == len(set(near))


def test_where_the_best_of_a_word_are_others_the_allowed_ones_are_searched_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.search.words._TERMS_OF_A_SET", 50)
    titles = ["lamp"] * 1900 + [f"lamp of {'brass ' * (number % 9)}for the hall" for number in range(100)]
    snapshot, searched, search = catalogue_of(*titles), list[int](), WordIndex._search
    words = WordIndex.build(snapshot)

    def counted(index: WordIndex, query: tantivy.Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        searched.append(k)
        return search(index, query, k)

    monkeypatch.setattr(WordIndex, "_search", counted)
    allowed = np.array(["hall" in title for title in snapshot.catalogue["title"].to_pylist()])
    found, score, whole = words.best("lamp", 10, allowed)
    assert len(searched) == 2
    every, every_score = words.find("lamp", 2000)
    passes = allowed[every]
    assert score.tolist() == pytest.approx(every_score[passes][:10].tolist())
    assert (len(set(found.tolist())), bool(allowed[found].all()), whole) == (10, True, False)
    searched.clear()
    assert len(words.best("brass", 10, allowed)[0]) == 10
    assert len(searched) == 1


def test_only_the_words_that_are_looked_for_are_mended() -> None:
    known = [f"{first}{second}ing" for first in "bcdfgh" for second in ("a", "e", "i", "o", "u", "y")][:MOST_WORDS]
    speller = Speller(Lexicon(dict.fromkeys([*known, "lipstick"], 1)))
    assert speller.corrected(" ".join([*known[1:], "lipstcik"])) == " ".join([*known[1:], "lipstick"])
    assert speller.corrected(" ".join([*known[1:], known[1], "lipstcik"])).endswith(" lipstick")
    assert speller.corrected(" ".join([*known, "lipstcik"])) == ""


def test_a_mended_word_stands_where_it_was_typed_and_the_rest_stays() -> None:
    lexicon = Lexicon(dict.fromkeys(["espresso", "hair", "dryer", "shampoo", "café", "2l", "aircon"], 3))
    speller = Speller(lexicon)
    assert speller.corrected("咖啡机 expresso, 2L") == "咖啡机 espresso, 2L"
    assert speller.corrected("咖expresso机") == "咖espresso机"
    assert speller.corrected("  For my Hairdryer: SHAM poo!") == "  For my hair dryer: shampoo!"
    assert speller.corrected("ESPRESSO – hair/dryer") == ""
    assert speller.corrected("ｅｘｐｒｅｓｓｏ ２Ｌ") == "espresso 2L"


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_text_is_found_in_every_form_of_unicode(form: str) -> None:
    titles = "Crème brûlée", "ﾄﾞﾗｲﾔｰ", "ＷＩＤＥ jeans", "한국 인삼", "Йогурт", "Café"
    queries = "crème", "ドライヤー", "wide", "인삼", "йогурт", "cafe"
    # The catalogue in one form and the queries in all.
    finder = Finder(WordIndex.build(catalogue_of(*(unicodedata.normalize(form, each) for each in titles))), None, None)
    for number, query in enumerate(queries):
        for asked in (query, unicodedata.normalize("NFD", query), titles[number]):
            fit = finder.find([Asked(asked, 3)])[0]
            assert (fit.product_index.tolist(), fit.corrected) == ([number], "")


def test_a_trade_mark_is_no_part_of_the_name_before_it() -> None:
    words = WordIndex.build(catalogue_of("Acme™ lamp", "Bolt℠ lamp 50㎖"))
    assert words.find("acme", 3)[0].tolist() == [0]
    assert words.find("bolt", 3)[0].tolist() == [1]
    assert words.find("50ml", 3)[0].tolist() == [1]


@given(st.text())
def test_words_are_those_of_the_places_that_they_stand_in(text: str) -> None:
    plain = normalised(text)
    assert normalised(plain) == plain
    placed = words_in_place(plain)
    assert [each.word for each in placed] == typed_words(text)
    assert [each for each in placed if typed_words(plain[each.start : each.end]) != [each.word]] == []
    assert Speller(Lexicon({})).corrected(text) == ""
