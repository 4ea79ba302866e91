import pytest
import torch

from model.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_the_share_is_dropped_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(300, 999)  # not a multiple of four in all
    result = Dropout(rate)(values)
    assert (result == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert result.mean().item() == pytest.approx(1.0, abs=0.03)
    assert result.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-3)


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(1)
    values = torch.ones(7, 5, requires_grad=True)
    result = Dropout(0.4)(values)
    result.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, result.detach())


def test_the_seed_decides() -> None:
    values, layer = torch.ones(50), Dropout(0.5)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(layer(values))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_outside_training() -> None:
    values = torch.ones(9)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
