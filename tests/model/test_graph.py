import numpy as np
import pytest
import torch

from kg.snapshot import Histories
from model.graph import propagate, symmetric_relation, transition_edges
from model.message_passing import RelationPropagation


def histories_of(*products: list[int]) -> Histories:
    offsets = np.cumsum([0, *map(len, products)]).astype(np.int64)
    flat = np.array([product for row in products for product in row], np.int32)
    rows = np.arange(len(flat))
    return Histories(
        offsets, flat, np.zeros(len(flat), np.int8), rows.astype(np.int64), np.zeros(len(flat), np.float32)
    )


def some_relations(generator: np.random.Generator, nodes: int) -> tuple:
    head, tail = generator.integers(0, nodes, (2, 60))
    weight = generator.random(60).astype(np.float32)
    return symmetric_relation(head, tail, nodes), symmetric_relation(tail, head, nodes, weight)


def test_a_relation_is_symmetric_normalised_and_free_of_loops() -> None:
    relation = symmetric_relation(np.array([0, 0, 1, 2]), np.array([1, 2, 0, 2]), 4)
    (source, target), weight = relation.edge_index()
    assert sorted(zip(source.tolist(), target.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert torch.allclose(weight, torch.full((4,), 2**-0.5))  # degrees 2 and 1
    assert relation.scale[3] == 0


@pytest.mark.parametrize("layers", [1, 3])
def test_the_fused_propagation_equals_message_passing_in_value_and_gradient(layers: int) -> None:
    relations = some_relations(np.random.default_rng(3), 30)
    results = []
    for once in (propagate, RelationPropagation()):
        torch.manual_seed(0)
        nodes = torch.randn(30, 8, requires_grad=True)
        alpha = torch.tensor([0.4, 1.3], requires_grad=True)
        hidden = nodes
        for _ in range(layers):
            hidden = once(hidden, alpha, relations)
        (hidden * torch.randn(30, 8)).sum().backward()
        results.append((hidden.detach(), nodes.grad, alpha.grad))
    for fused, plain in zip(*results, strict=True):
        assert fused is not None
        torch.testing.assert_close(fused, plain)


def test_half_precision_stays_close() -> None:
    relations = some_relations(np.random.default_rng(4), 30)
    nodes, alpha = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.4, 1.3])
    exact, half = propagate(nodes, alpha, relations), propagate(nodes, alpha, relations, half=True)
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.02)


def test_transitions_are_counted_in_either_direction_and_not_across_users() -> None:
    head, tail, count = transition_edges(histories_of([0, 1, 0, 2], [2, 2, 3]), 4, most=10)
    assert dict(zip(zip(head.tolist(), tail.tolist(), strict=True), count.tolist(), strict=True)) == {
        (0, 1): 2.0,
        (0, 2): 1.0,
        (2, 3): 1.0,
    }


def test_products_further_apart_count_less() -> None:
    head, tail, weight = transition_edges(histories_of([0, 1, 2, 1], [3, 0]), 4, most=10, steps=3)
    found = dict(zip(zip(head.tolist(), tail.tolist(), strict=True), weight.tolist(), strict=True))
    assert found == {(0, 1): pytest.approx(1 + 1 / 3), (0, 2): 0.5, (0, 3): 1.0, (1, 2): 2.0}


def test_a_pair_stays_while_either_product_keeps_it() -> None:
    hub = [[0, other] for other in (1, 2, 3)] + [[0, 3]]
    head, tail, _ = transition_edges(histories_of(*hub), 4, most=1)
    assert sorted(zip(head.tolist(), tail.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3)]
    head, tail, _ = transition_edges(histories_of([0, 1], [0, 1], [0, 2], [2, 3], [2, 3], [1, 3]), 4, most=1)
    assert sorted(zip(head.tolist(), tail.tolist(), strict=True)) == [(0, 1), (2, 3)]


def test_no_history_gives_no_transitions() -> None:
    head, tail, count = transition_edges(histories_of([], [1]), 4, most=3, steps=2)
    assert len(head) == len(tail) == len(count) == 0
