"""Fusion: text, ids, both, or neither, as the ablations take them apart."""

import pytest
import torch
from pydantic import ValidationError

from model.config import ModelConfig
from model.fusion import GatedFusion
from model.network import RankingNetwork

TEXT, IDS = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), torch.randn(5, 4)
HAS = torch.tensor([True, True, False, True, True])


def fused(text: torch.Tensor = TEXT, identity: torch.Tensor = IDS, **switches: bool) -> torch.Tensor:
    torch.manual_seed(2)
    result: torch.Tensor = GatedFusion(7, 4, 0.0, **switches)(text, identity, HAS)
    return result


def test_a_node_without_id_is_its_text() -> None:
    assert torch.equal(fused()[2], fused(use_id=False)[2])


@pytest.mark.parametrize(
    ("switches", "by_text", "by_id"),
    [
        ({}, True, True),
        ({"use_id": False}, True, False),
        ({"use_text": False}, False, True),
        ({"use_text": False, "use_id": False}, False, True),
    ],
)
def test_what_is_left_out_has_no_effect(switches: dict[str, bool], by_text: bool, by_id: bool) -> None:
    before = fused(**switches)
    assert torch.equal(before, fused(text=TEXT + 1, **switches)) != by_text
    assert torch.equal(before, fused(identity=IDS + 1, **switches)) != by_id
    if not switches.get("use_text", True):
        assert not before[2].any()  # no id, no text: nothing is known but the neighbours


def test_with_neither_text_nor_ids_the_drawn_vectors_stay() -> None:
    config = ModelConfig(
        dimension=8, layers=1, text_features=False, id_features=False, text_kernel_dimension=0, dropout=0
    )
    network = RankingNetwork(config, 7, 5, [])
    network.nodes(TEXT, torch.arange(5), ()).sum().backward()
    assert network.identity.weight.grad is None


def test_the_text_component_goes_with_the_text() -> None:
    with pytest.raises(ValidationError, match="text_kernel_dimension must be 0"):
        ModelConfig(text_features=False)
