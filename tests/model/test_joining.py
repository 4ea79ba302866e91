"""Products that join a model in service get the vectors that the whole graph's propagation would give them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from kg.extending import CatalogueChange, Extension, extended
from kg.snapshot import Snapshot
from kg.tables import FACTS, PRODUCTS
from model.artifact import Artifact, load_artifact, save_artifact
from model.config import NeighbourConfig
from model.ensemble import combine
from model.joining import Encode, hidden_states, joined
from model.neighbours import fit_neighbours
from model.product_graph import product_graph
from model.refresh import extend, refresh
from model.splits import SplitConfig, make_split
from model.text import TextEncoder, encode_cached
from model.train import train
from tests.model.small_shop import MODEL, TRAIN, small_shop

CONFIG = MODEL.model_copy(update={"layers": 2})
SETTINGS = TRAIN.model_copy(update={"epochs": 2})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def artifact(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    graph = product_graph(snapshot, split.train, CONFIG)
    text = encode_cached(graph.texts, CONFIG.text, cache)
    trained = train(snapshot, split, text, graph, CONFIG, SETTINGS)
    return load_artifact(save_artifact(tmp_path_factory.mktemp("artifacts"), snapshot, split, trained, SETTINGS))


@pytest.fixture(scope="module")
def encode() -> Encode:
    return TextEncoder(CONFIG.text).encode


def tea(name: str, title: str = "green tea leaves", brand: str = "Leaf") -> dict[str, object]:
    row = {"product_id": name, "title": title, "description": "", "brand": brand, "category": ["drinks"]}
    return row | {"price": None, "available": None, "attributes": []}


def change(
    products: Sequence[dict[str, object]] = (), facts: Sequence[dict[str, str]] = (), deleted: tuple[str, ...] = ()
) -> CatalogueChange:
    return CatalogueChange(
        pa.Table.from_pylist(list(products), PRODUCTS), pa.Table.from_pylist(list(facts), FACTS), deleted
    )


def bought_together(head: str, tail: str) -> dict[str, str]:
    return {"head": head, "relation": "BOUGHT_TOGETHER", "tail": tail, "head_kind": "product", "tail_kind": "product"}


def cosines(found: torch.Tensor, expected: torch.Tensor) -> npt.NDArray[np.float32]:
    cosine: npt.NDArray[np.float32] = torch.nn.functional.cosine_similarity(found, expected).numpy()
    return cosine


def fully(artifact: Artifact, extension: Extension, cache: Path) -> torch.Tensor:
    """Return the matrix that a full refresh gives."""
    return refresh(artifact, extension.snapshot, cache).matrix


def test_new_products_get_the_vectors_of_a_full_refresh(artifact: Artifact, cache: Path, encode: Encode) -> None:
    before = small_shop()
    scorer, kernel, keys = refresh(artifact, before, cache), artifact.kernel, artifact.node_keys
    states = hidden_states(scorer, keys, before, cache)
    new = [tea(f"tea-new-{row}") for row in range(2)]
    extension = extended(before, change(new, [bought_together("tea-new-0", "tea-03")]))
    after, _ = joined(scorer, kernel, keys, states, extension, encode)
    expected = fully(artifact, extension, cache)
    # What is left out, how they move their neighbours, is little even in a shop of twenty products.
    assert cosines(after.matrix[20:], expected[20:]).min() > 0.98
    graph = after.blocks["graph"]
    torch.testing.assert_close(after.matrix[20:, graph].norm(dim=1), torch.ones(2))
    others = np.delete(np.arange(20), before.products.index("tea-03"))  # which has a fact more
    assert torch.equal(after.matrix[others], scorer.matrix[others])


def test_nodes_that_come_together_see_each_other_exactly(artifact: Artifact, cache: Path, encode: Encode) -> None:
    before = small_shop()
    scorer, kernel, keys = refresh(artifact, before, cache), artifact.kernel, artifact.node_keys
    states = hidden_states(scorer, keys, before, cache)
    # Two products of a new brand in no known category: their part of the graph stands for itself.
    alone = [tea(f"kettle-{row}", "electric kettle", "Nova") | {"category": []} for row in range(2)]
    extension = extended(before, change(alone, [bought_together("kettle-0", "kettle-1")]))
    after, _ = joined(scorer, kernel, keys, states, extension, encode)
    expected = fully(artifact, extension, cache)
    torch.testing.assert_close(after.matrix[20:], expected[20:], atol=2e-3, rtol=0)


def test_one_after_the_other_ends_where_all_at_once_does(artifact: Artifact, cache: Path, encode: Encode) -> None:
    before = small_shop()
    scorer, kernel, keys = refresh(artifact, before, cache), artifact.kernel, artifact.node_keys
    states = hidden_states(scorer, keys, before, cache)
    first = extended(before, change([tea("kettle-0", "electric kettle", "Nova")]))
    one, between = joined(scorer, kernel, keys, states, first, encode)
    second = extended(first.snapshot, change([tea("kettle-1", "electric kettle", "Nova")]))
    both, last = joined(one, kernel, keys, between, second, encode)
    # The brand links nothing before its second product; then the first one's vector follows, too.
    assert not torch.equal(one.matrix[20], both.matrix[20])
    assert cosines(both.matrix[20:], fully(artifact, second, cache)[20:]).min() > 0.98
    assert last is not None
    assert len(last.joined) == 3  # two products and their brand


def test_a_known_product_with_another_text_keeps_its_id_and_transitions(
    artifact: Artifact, cache: Path, encode: Encode
) -> None:
    before = small_shop()
    scorer, kernel, keys = refresh(artifact, before, cache), artifact.kernel, artifact.node_keys
    states = hidden_states(scorer, keys, before, cache)
    place = before.products.index("tea-05")
    extension = extended(before, change([tea("tea-05", "black tea, smoked")]))
    after, _ = joined(scorer, kernel, keys, states, extension, encode)
    expected = fully(artifact, extension, cache)
    assert cosines(after.matrix[[place]], expected[[place]]).min() > 0.98
    assert not torch.equal(after.matrix[place], scorer.matrix[place])
    others = np.delete(np.arange(20), place)
    assert torch.equal(after.matrix[others], scorer.matrix[others])


def test_many_changes_of_one_product_keep_one_state_of_it(artifact: Artifact, cache: Path, encode: Encode) -> None:
    snapshot: Snapshot = small_shop()
    scorer, kernel, keys = refresh(artifact, snapshot, cache), artifact.kernel, artifact.node_keys
    states = hidden_states(scorer, keys, snapshot, cache)
    for turn in range(5):
        extension = extended(snapshot, change([tea("kettle", f"kettle number {turn}")]))
        scorer, following = joined(scorer, kernel, keys, states, extension, encode)
        assert following is not None
        snapshot, states = extension.snapshot, following
    assert (len(scorer.matrix), len(states.joined)) == (21, 1)


def test_while_there_are_no_states_a_new_product_has_its_text_alone(
    artifact: Artifact, cache: Path, encode: Encode
) -> None:
    before = small_shop()
    scorer = refresh(artifact, before, cache)
    extension = extended(before, change([tea("tea-new"), tea("bare", "", "") | {"category": []}]))
    after, states = joined(scorer, artifact.kernel, artifact.node_keys, None, extension, encode)
    assert states is None
    assert not after.matrix[20:, after.blocks["graph"]].any()
    expected = fully(artifact, extension, cache)
    text = after.blocks["text"]
    torch.testing.assert_close(after.matrix[20:, text], expected[20:, text], atol=2e-3, rtol=0)


def test_an_ensemble_with_neighbours_takes_new_products_like_one_network(
    artifact: Artifact, cache: Path, encode: Encode
) -> None:
    before = small_shop()
    one = refresh(artifact, before, cache)
    near = fit_neighbours(before, before.histories, NeighbourConfig(kind="cosine"), ())
    scorer = combine([one, one]).with_neighbours(near)
    states = hidden_states(scorer, artifact.node_keys, before, cache)
    extension = extended(before, change([tea("tea-new")]))
    after, _ = joined(scorer, artifact.kernel, artifact.node_keys, states, extension, encode)
    expected = extend(
        scorer, artifact.kernel, artifact.node_keys, extension.snapshot, before.histories, before.as_of_ms, cache
    )
    assert after.matrix.shape == expected.matrix.shape
    assert cosines(after.matrix[20:], expected.matrix[20:]).min() > 0.98
    users = after.encode_users(before.histories, np.full(len(before.users), before.as_of_ms))
    assert (users.vectors @ after.matrix.T).shape[1] == 21
