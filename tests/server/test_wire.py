"""Results that are written as bytes read back as the messages that they stand for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgrank.v1.ranking_service_pb2 import (
    BatchRecommendResponse,
    RankResponse,
    RecommendResponse,
    SearchResponse,
    SimilarProductsResponse,
)
from server.question import Ranking, UserState
from server.wire import PLAIN, ResultWriter, embedded, is_plain, varint

IDS = ["", "a", "é" * 40, "x" * 92, "y" * 93, "z" * 128, "w" * 256, "b"]
WRITER = ResultWriter(pa.array(IDS))
FLOATS = st.floats(width=32, allow_nan=False)


@settings(deadline=None)
@given(st.data())
def test_bytes_read_back_as_messages(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(IDS) - 1), max_size=20))
    column = st.lists(FLOATS, min_size=len(chosen), max_size=len(chosen))
    names = data.draw(st.sets(st.sampled_from(PLAIN)))
    parts = {name: np.array(data.draw(column), np.float32) for name in names}
    score = np.arange(len(chosen), dtype=np.float32) - 0.5
    ranking = Ranking(np.array(chosen, np.int64), score, parts, UserState.WARM)
    expected = RecommendResponse(model_version="m", missing_ids=["x"])
    rest = expected.SerializeToString()
    for place, index in enumerate(chosen):
        result = expected.results.add(product_id=IDS[index], score=float(score[place]))
        result.components.SetInParent()
        for name, part in parts.items():
            setattr(result.components, name, float(part[place]))
    assert RecommendResponse.FromString(WRITER.results(ranking) + rest) == expected


def test_results_of_a_growing_and_of_an_empty_catalogue() -> None:
    ones = np.ones(2, np.float32)
    nothing = Ranking(np.empty(0, np.int64), ones[:0], {}, UserState.COLD)
    assert ResultWriter(pa.array([], pa.string())).results(nothing) == b""
    written = ResultWriter(pa.array(["of another catalogue", *IDS]).slice(1)).results(
        Ranking(np.array([2, 7]), ones, {})
    )
    assert written == WRITER.results(Ranking(np.array([2, 7]), ones, {}))


def test_every_list_has_its_results_in_the_same_field() -> None:
    for kind in (RecommendResponse, RankResponse, SearchResponse, SimilarProductsResponse):
        assert kind.DESCRIPTOR.fields_by_name["results"].number == 1
    ranking = Ranking(np.array([1]), np.ones(1, np.float32), {}, UserState.COLD)
    inner = WRITER.results(ranking)
    outer = BatchRecommendResponse(sequence=7).SerializeToString() + embedded(2, inner)
    read = BatchRecommendResponse.FromString(outer)
    assert (read.sequence, read.response.results[0].product_id) == (7, "a")


def test_other_components_are_not_plain() -> None:
    ones = np.ones(1, np.float32)
    assert is_plain(Ranking(np.array([1]), ones, {"graph": ones}, UserState.COLD))
    assert not is_plain(Ranking(np.array([1]), ones, {"graph": ones, "rule": ones}, UserState.COLD))


@pytest.mark.parametrize(("number", "written"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_a_varint_is_as_protobuf_writes_it(number: int, written: bytes) -> None:
    assert varint(number) == written
