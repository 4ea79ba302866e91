import numpy as np
import pytest
import torch
from torch import Tensor

from kg.snapshot import Histories
from model.config import TrainConfig
from model.negatives import (
    FULL_SOFTMAX_PRODUCTS,
    Negatives,
    NegativeSampler,
    negative_sampler,
    sampled_softmax_loss,
)
from model.softmax import softmax_loss

PRODUCTS, QUESTIONS = 12, 9


def some_histories() -> Histories:
    product = np.array([0, 0, 0, 1, 1, 2, 5, 5, 5, 5], np.int32)
    rows = len(product)
    return Histories(np.array([0, rows]), product, np.zeros(rows, np.int8), np.arange(rows), np.ones(rows, np.float32))


def given() -> tuple[list[Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((QUESTIONS, 4), (PRODUCTS, 4), (PRODUCTS,), (4,))
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    pairs = (torch.tensor([0, 2, 2, 8]), torch.tensor([3, 1, 7, 0]))
    targets = (
        torch.tensor([0, 1, 2, 2, 3, 4, 5, 6, 7, 8]),
        torch.tensor([3, 0, 1, 4, 5, 5, 6, 9, 2, 11]),  # two of them stand at pairs
        torch.tensor([1, 1, 0.5, 0.5, 1, 1, 1, 1, 1, 1]),
    )
    return tensors, pairs, targets


def test_drawing_every_product_as_often_as_expected_is_the_full_softmax() -> None:
    tensors, pairs, targets = given()
    everything = Negatives(torch.arange(PRODUCTS), torch.zeros(PRODUCTS))
    results = []
    for sampled in (False, True):
        users, products, column, offset = (tensor.clone().requires_grad_() for tensor in tensors)
        rest = {"scale": 1.5, "half": False, "column": column, "offset": offset, "pairs": pairs}
        if sampled:
            loss = sampled_softmax_loss(everything, users, products, targets, **rest)
        else:
            loss = softmax_loss(users, products, targets, **rest)
        loss.backward()
        results.append([loss.detach(), users.grad, products.grad, column.grad, offset.grad])
    for full, got in zip(*results, strict=True):
        torch.testing.assert_close(got, full)


def test_the_weights_make_the_sum_over_the_catalogue_unbiased() -> None:
    sampler = negative_sampler(some_histories(), PRODUCTS, TrainConfig(negatives=6))
    assert sampler is not None
    assert sampler.expected.sum() == pytest.approx(6)
    generator = np.random.default_rng(0)
    values = np.exp(np.random.default_rng(1).normal(size=PRODUCTS))
    draws = []
    for _ in range(4000):
        negatives = sampler.draw(generator)
        draws.append(float((negatives.log_weight.exp().numpy() * values[negatives.product.numpy()]).sum()))
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - values.sum()) < 4 * error


def test_the_loss_comes_near_the_full_one_as_more_is_drawn() -> None:
    (users, products, *_), _, targets = given()
    full = softmax_loss(users, products, targets, scale=1.0, half=False)
    frequent = np.array([0, 5, 5], np.int32)
    expected = 3000 / PRODUCTS + 3000 * np.bincount(frequent, minlength=PRODUCTS) / 3
    negatives = NegativeSampler(6000, frequent, expected).draw(np.random.default_rng(2))
    near = sampled_softmax_loss(negatives, users, products, targets, scale=1.0, half=False)
    assert near.item() == pytest.approx(full.item(), rel=0.02)


def test_a_right_answer_that_is_drawn_is_not_counted_twice() -> None:
    users, products = torch.tensor([[1.0]]), torch.tensor([[2.0], [2.0]])
    targets = (torch.tensor([0]), torch.tensor([0]), torch.ones(1))
    often = Negatives(torch.tensor([0, 1]), torch.tensor([3.0, 0.0]))
    loss = sampled_softmax_loss(often, users, products, targets, scale=1.0, half=False)
    assert loss.item() == pytest.approx(np.log(2))


def test_a_small_catalogue_is_scored_whole_and_a_large_one_is_not() -> None:
    config = TrainConfig()
    assert negative_sampler(some_histories(), FULL_SOFTMAX_PRODUCTS, config) is None
    assert negative_sampler(some_histories(), FULL_SOFTMAX_PRODUCTS + 1, config) is not None
    assert negative_sampler(some_histories(), PRODUCTS, TrainConfig(negatives=4)) is not None
