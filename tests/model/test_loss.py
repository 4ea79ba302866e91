import torch
import torch.nn.functional as F

from model.loss import CatalogueSoftmax


def test_loss_and_gradient_equal_those_of_the_textbook() -> None:
    generator = torch.Generator().manual_seed(0)
    users, products = torch.randn(4, 3, generator=generator), torch.randn(6, 3, generator=generator)
    bias, gains = torch.randn(6, generator=generator), torch.randn(2, generator=generator)
    places = (torch.tensor([0, 3]), torch.tensor([5, 1]))
    targets = (torch.tensor([0, 1, 1, 2, 3]), torch.tensor([5, 0, 2, 2, 1]), torch.tensor([1, 0.5, 0.5, 1, 1]))

    def textbook(users: torch.Tensor, products: torch.Tensor, bias: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        logits = 2.5 * users @ products.T + bias
        logits = logits.index_put(places, gains, accumulate=True)
        return -(F.log_softmax(logits, 1)[targets[0], targets[1]] * targets[2]).sum() / 4

    results = []
    for loss_of in (textbook, lambda *given: CatalogueSoftmax.apply(*given, places, targets, 2.5, False)):
        given = [tensor.clone().requires_grad_() for tensor in (users, products, bias, gains)]
        loss = loss_of(*given)
        (loss * 3).backward()
        results.append([loss.detach(), *(tensor.grad for tensor in given)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
