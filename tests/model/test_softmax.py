from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import model.softmax
from model.softmax import softmax_loss

QUESTIONS, COLUMNS, WIDTH, SCALE = 11, 7, 3, 2.5


@pytest.fixture(params=["one block", "blocks of four questions"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param != "one block":
        monkeypatch.setattr(model.softmax, "_FEWEST_ROWS", 4)
        monkeypatch.setattr(model.softmax, "_BLOCK", 4 * COLUMNS)
    return


def textbook(
    users: Tensor, products: Tensor, column: Tensor, offset: Tensor, pairs: tuple[Tensor, Tensor], targets: Tensor
) -> Tensor:
    raw = SCALE * users @ products.T
    logits = (raw + column).index_put(pairs, raw[pairs] + offset)
    return -(F.log_softmax(logits, 1) * targets).sum(1).mean()


def given(generator: torch.Generator) -> tuple[list[Tensor], tuple[Tensor, Tensor], Tensor]:
    shapes = ((QUESTIONS, WIDTH), (COLUMNS, WIDTH), (COLUMNS,), (5,))
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    pairs = (torch.tensor([0, 3, 3, 7, 10]), torch.tensor([5, 1, 6, 0, 2]))
    share = torch.zeros(QUESTIONS, COLUMNS)
    share[torch.arange(QUESTIONS), torch.arange(QUESTIONS) % COLUMNS] = 1
    share[3] = torch.tensor([0, 0.25, 0, 0.75, 0, 0, 0])  # one right answer stands at a pair, the other does not
    return tensors, pairs, share


@pytest.mark.usefixtures("blocks")
def test_loss_and_gradients_equal_those_of_the_textbook() -> None:
    tensors, pairs, share = given(torch.Generator().manual_seed(0))
    question, product = share.nonzero(as_tuple=True)
    targets = (question, product, share[question, product])

    def ours(users: Tensor, products: Tensor, column: Tensor, offset: Tensor) -> Tensor:
        return softmax_loss(
            users, products, targets, scale=SCALE, half=False, column=column, offset=offset, pairs=pairs
        )

    results = []
    for loss_of in (lambda *tensors: textbook(*tensors, pairs, share), ours):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        loss = loss_of(*leaves)
        (loss * 3).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("blocks")
def test_bf16_comes_near_float32() -> None:
    (users, products, *_), _, share = given(torch.Generator().manual_seed(1))
    question, product = share.nonzero(as_tuple=True)
    targets = (question, product, share[question, product])
    gradients = []
    for half in (False, True):
        leaf = users.clone().requires_grad_()
        softmax_loss(leaf, products, targets, scale=SCALE, half=half).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.01)


def test_a_logit_far_above_the_right_one_gives_a_finite_loss() -> None:
    users, products = torch.tensor([[1.0]]), torch.tensor([[500.0], [0.0]])
    targets = (torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    loss = softmax_loss(users, products, targets, scale=1.0, half=False)
    assert loss.item() == pytest.approx(500.0)
