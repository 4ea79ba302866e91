import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from kg.store import Graph
from kgrank.client import Client
from kgrank.errors import InvalidRequestError
from kgrank.v1 import common_pb2
from kgrank.v1.common_pb2 import Context, Filter
from server.journal import Journal
from server.journal_file import WrittenSearch
from server.past_searches import PastSearches
from server.search.lexicon import Lexicon
from server.search.meaning import MeaningIndex
from server.search.spelling import Speller
from server.search.words import WordIndex
from server.searches import SearchLog
from tests.server.running import running
from tests.server.shop import Shop
from tests.waiting import until


def ids(results: "object") -> list[str]:
    return [result.product_id for result in results]  # type: ignore[attr-defined]  # repeated results of any response


def sum_of(parts: common_pb2.ScoreComponents) -> float:
    return sum(getattr(parts, field.name) for field in parts.DESCRIPTOR.fields)


def test_a_title_finds_its_product_first(client: Client) -> None:
    for number in (3, 41, 77):
        assert ids(client.search(f"Thing {number}", k=3).results)[0] == f"product-{number:02}"


def test_components_add_up_to_the_score_and_query_is_the_search_part(client: Client) -> None:
    answer = client.search("Acme thing 12", "user-03", k=20)
    for result in answer.results:
        assert sum_of(result.components) == pytest.approx(result.score, abs=1e-3)
        assert result.components.query > 0
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert answer.user_state == common_pb2.USER_STATE_WARM


def test_the_user_orders_what_fits_alike(client: Client) -> None:
    # All of these have one of the words, so the order among them is the model's.
    query = "blue red colour kind"
    one, other = (ids(client.search(query, user, k=90).results) for user in ("user-00", "user-01"))
    assert sorted(one) == sorted(other)
    assert one != other


def test_typing_errors_are_mended_and_told(client: Client) -> None:
    plain = client.search("thing kind acme", "user-05", k=30)
    mistyped = client.search("thnig kindd acmee", "user-05", k=30)
    assert plain.corrected_query == ""
    assert mistyped.corrected_query == "thing kind acme"
    assert ids(mistyped.results) == ids(plain.results)


def test_a_search_is_filtered_exactly(client: Client) -> None:
    allowed = ["product-10", "product-20", "product-31"]
    assert set(ids(client.search("thing", k=90, filter=Filter(brands=["Bolt"])).results)) == {
        f"product-{number:02}" for number in range(1, 90, 3)
    }
    answer = client.search("thing", allowed_product_ids=[*allowed, "ghost"], exclude_product_ids=["product-20"])
    assert sorted(ids(answer.results)) == ["product-10", "product-31"]
    assert list(answer.missing_ids) == ["ghost"]
    assert not client.search("thing", filter=Filter(brands=["no such brand"])).results


def test_words_that_no_product_has_are_no_error(client: Client) -> None:
    answer = client.search("!!! ¿?")
    assert answer.model_version
    assert client.search("\u6d17\u53d1\u6c34", "user-01").model_version


@pytest.mark.parametrize("query", ["", "   ", "x" * 1001, "a\x00b"])
def test_a_query_out_of_bounds_is_refused(client: Client, query: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.search(query)
    assert [violation.field for violation in refused.value.violations] == ["query"]


def test_a_query_in_the_context_puts_what_fits_forward(client: Client) -> None:
    cold = client.recommend(k=90)
    steered = client.recommend(k=90, context=Context(query="thing 42"))
    assert ids(steered.results)[0] == "product-42"
    assert ids(cold.results)[0] != "product-42"
    # Nothing is left out for it.
    assert sorted(ids(steered.results)) == sorted(ids(cold.results))
    assert steered.user_state == common_pb2.USER_STATE_CONTEXT_ONLY
    for result in steered.results:
        assert sum_of(result.components) == pytest.approx(result.score, abs=1e-3)


def test_categories_in_the_context_put_their_products_forward(client: Client) -> None:
    cold = client.recommend(k=13)
    steered = client.recommend(k=13, context=Context(categories=["Things > Kind 3"]))
    inside, before = (
        [result for result in answer.results if int(result.product_id[8:]) % 7 == 3] for answer in (steered, cold)
    )
    assert len(inside) > len(before)
    assert len(steered.results) == 13
    assert all((result.components.query > 0) == (result in inside) for result in steered.results)
    assert steered.user_state == common_pb2.USER_STATE_CONTEXT_ONLY
    everything = client.recommend("user-02", k=90, exclude_seen=False, context=Context(categories=["Things > Kind 3"]))
    assert len(everything.results) == 90


def test_an_explanation_counts_the_query_of_its_context(client: Client) -> None:
    context = Context(query="thing 42", categories=["Things > Kind 0"])
    listed = client.recommend("user-04", k=90, context=context, exclude_seen=False)
    for place, result in enumerate(listed.results[:3], start=1):
        explained = client.explain("user-04", result.product_id, context=context)
        assert explained.result.score == pytest.approx(result.score, abs=1e-3)
        assert explained.rank == place


def test_words_of_a_changed_catalogue_are_found_and_the_old_index_stays(shop: Shop) -> None:
    from dataclasses import replace

    import pyarrow as pa

    before = WordIndex.build(shop.snapshot)
    catalogue = shop.snapshot.catalogue
    titles = catalogue["title"].to_pylist()
    titles[5] = "Entirely renamed teapot"
    texts = catalogue["text"].to_pylist()
    texts[5] = titles[5]
    place = catalogue.column_names.index
    changed = catalogue.set_column(place("title"), "title", pa.array(titles))
    changed = changed.set_column(place("text"), "text", pa.array(texts))
    after = before.following(replace(shop.snapshot, catalogue=changed))
    assert after.find("teapot", 3)[0].tolist() == [5]
    assert not len(before.find("teapot", 3)[0])
    assert before.find("thing 5", 1)[0].tolist() == [5]
    assert 5 not in after.find("thing 5", 90)[0]
    assert "teapot" in after.vocabulary
    # Two engines go on with one index: the second gets what was made for the first.
    assert before.following(replace(shop.snapshot, catalogue=changed)) is after
    # Another way on from the same index does not disturb the first.
    forked = before.following(shop.snapshot)
    assert forked is before


def test_a_mask_finds_the_best_of_what_it_lets_through(shop: Shop) -> None:
    words = WordIndex.build(shop.snapshot)
    found, score = words.find("acme thing 9", 90)
    for step in (2, 9, 89):
        allowed = np.zeros(len(words), np.bool_)
        allowed[::step] = True
        _, kept_score = words.find("acme thing 9", 4, allowed)
        assert kept_score.tolist() == pytest.approx(score[allowed[found]][:4].tolist())


def test_each_product_scores_by_itself_as_among_all(shop: Shop) -> None:
    words = WordIndex.build(shop.snapshot)
    found, score = words.find("acme thing 9", 90)
    expected = np.zeros(len(words), np.float32)
    expected[found] = score
    for products in (np.arange(len(words)), np.array([2, 9, 33]), np.empty(0, np.int64)):
        assert words.scores("acme thing 9", products).tolist() == pytest.approx(expected[products].tolist())
    assert not words.scores("!!!", np.arange(3)).any()


def test_a_speller_mends_what_is_near_and_leaves_the_rest() -> None:
    products = {"lipstick": 90, "lipsticks": 3, "shampoo": 40, "hair": 50, "dryer": 20, "4711": 2, "red": 9}
    speller = Speller(Lexicon(products))
    assert speller.corrected("lipstcik red") == "lipstick red"
    assert speller.corrected("Shampo") == "shampoo"
    assert speller.corrected("hairdryer") == "hair dryer"
    assert speller.corrected("sham poo") == "shampoo"
    assert speller.corrected("lipstick") == ""
    assert speller.corrected("xyzzyq rd 4712") == ""


@pytest.mark.neo4j
def test_a_search_of_a_user_is_stored_exported_and_erased(home: Path, graph: Graph) -> None:
    asked = "MATCH (u:User)-[r:SEARCHED]->(q:Query) RETURN u.id, q.text ORDER BY q.text"
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target) as client:
        client.search("red thing", "seeker")
        client.search("red thing", "seeker")
        client.search("blue thing", "someone-else")
        client.search("secret thing", "seeker", untracked=True)
        client.search("nobody's thing")
        until(lambda: len(graph.read(asked)) == 3)
        assert graph.read(asked) == [["someone-else", "blue thing"], ["seeker", "red thing"], ["seeker", "red thing"]]
        exported = [json.loads(line) for line in client.export_user("seeker")]
        searches = [each for each in exported if each["record"] == "search" and each["source"] != "memory"]
        assert [each["query"] for each in searches] == ["red thing"] * 2
        client.erase_user("seeker")
        assert graph.read(asked) == [["someone-else", "blue thing"]]
        assert not graph.read("MATCH (q:Query {text: 'red thing'}) RETURN q")
    journal = Journal(home / "journal.db")
    assert not journal.searches(10)
    journal.close()


def test_as_many_searches_wait_for_the_graph_as_may_and_later_ones_are_counted(tmp_path: Path) -> None:
    journal, past, lost = Journal(tmp_path / "journal.db"), PastSearches(24), list[str]()
    log = SearchLog(journal, lambda: None, past, 2, lost.append)
    for waiting in (1, 2, 2, 2):
        log.note("seeker", f"thing {len(past.of('seeker'))}")
        until(lambda waiting=waiting: journal.searches_behind == waiting)
    assert lost == ["behind"] * 2
    assert len(past.of("seeker")) == 4  # they count all the same
    assert [each.query for each in journal.searches(10).values()] == ["thing 0", "thing 1"]
    journal.forget_searches([min(journal.searches(10))])
    assert journal.searches_behind == 1
    log.note("seeker", "thing 4")
    until(lambda: journal.searches_behind == 2)
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    assert journal.searches_behind == 2
    journal.erase("seeker").result(10)
    assert journal.searches_behind == 0
    journal.close()
    SearchLog(journal, lambda: None, None, 2, lost.append).note("seeker", "thing 5")  # nothing is stored any more
    assert lost == ["behind", "behind", "failed"]


def test_searches_wait_in_the_journal_and_go_with_their_user(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    for number, user in enumerate(("seeker", "seeker", "other")):
        journal.append_search(WrittenSearch(f"search-{number}", user, f"thing {number}", 1000 + number)).result(10)
    assert [each.query for each in journal.searches(10).values()] == ["thing 0", "thing 1", "thing 2"]
    assert journal.users() == ["other", "seeker"]
    journal.erase("seeker", 1000).result(10)
    assert [each.query for each in journal.searches_of("seeker")] == ["thing 1"]
    journal.erase("seeker").result(10)
    (left,) = journal.searches(10).items()
    assert left[1].user_id == "other"
    journal.forget_searches([left[0]])
    assert not journal.searches(10)
    journal.close()
    for file in tmp_path.iterdir():
        assert b"seeker" not in file.read_bytes()


def test_the_meaning_of_a_changed_catalogue_is_scanned_as_if_it_were_a_new_one() -> None:
    generator = torch.Generator().manual_seed(3)
    made = torch.nn.functional.normalize(torch.randn((309, 16), generator=generator), dim=1)
    matrix = torch.cat([torch.randn((309, 4), generator=generator), made], dim=1)
    after = matrix.clone()
    after[[4, 200]] = matrix[[7, 8]]
    gone_on = MeaningIndex(matrix[:300], slice(4, 20)).following(after)
    anew = MeaningIndex(after, slice(4, 20))
    for row in (0, 7, 305):
        query = after[row, 4:].numpy()
        found, cosine = gone_on.find(query, 20)
        assert row in found[:2]
        assert len(np.intersect1d(found, anew.find(query, 20)[0])) >= 19
        np.testing.assert_allclose(cosine, gone_on.cosine(query, found), atol=1e-5)
