import torch
import torch.nn.functional as F

from model.batches import Batch
from model.history import RecentEvents
from model.loss import new_products_loss

OWN = (torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 1, 2]))  # question and product of what users had before


def answers(*pairs: tuple[int, int]) -> Batch:
    """Return a batch of three questions with these answers (question, product)."""
    question, product = (torch.tensor(each) for each in zip(*pairs, strict=True))
    nothing = torch.zeros(3, 1, dtype=torch.int64)
    events = RecentEvents(nothing, nothing, nothing.float(), nothing[:, 0])
    return Batch(events, False, torch.arange(3), question, product, 1 / question.bincount()[question])


def loss(batch: Batch, asked: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    return new_products_loss(asked, products, torch.linspace(0, 1, 5), OWN, batch, scale=2.0, half=False)


def test_what_a_user_had_counts_neither_as_answer_nor_as_choice() -> None:
    generator = torch.Generator().manual_seed(0)
    asked, products = (torch.randn(count, 4, generator=generator).requires_grad_() for count in (3, 5))
    logits = 2.0 * asked @ products.T + torch.linspace(0, 1, 5)
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[OWN] = True
    share = F.log_softmax(logits.masked_fill(hidden, -torch.inf), 1)
    # The second user has only known products again, and asks nothing here.
    expected = -((share[0, 1] + share[0, 2]) / 2 + share[2, 4]) / 2
    batch = answers((0, 0), (0, 1), (0, 2), (1, 1), (2, 4))
    actual = loss(batch, asked, products)
    torch.testing.assert_close(actual, expected)
    for got, wanted in zip(
        torch.autograd.grad(actual, (asked, products)), torch.autograd.grad(expected, (asked, products)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_answers_that_are_all_known_teach_nothing_of_new_products() -> None:
    asked = torch.randn(3, 4, requires_grad=True)
    actual = loss(answers((0, 0), (2, 2)), asked, torch.randn(5, 4))
    assert actual.item() == 0
    assert not torch.autograd.grad(actual, asked)[0].any()
