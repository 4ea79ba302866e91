import numpy as np
import torch

from kg.snapshot import Histories
from model.history import HistoryEncoder, recent_events

DAY_MS = 86_400_000


def two_users_and_a_cold_one() -> Histories:
    return Histories(
        offsets=np.array([0, 3, 3, 5]),
        product_index=np.array([4, 1, 2, 0, 3], np.int32),
        type=np.array([0, 4, 4, 0, 0], np.int8),
        at_ms=np.array([0, 2, 5, 1, 1]) * DAY_MS,
        value=np.full(5, np.nan, np.float32),
    )


def encoder(length: int = 4) -> HistoryEncoder:
    torch.manual_seed(0)
    made = HistoryEncoder(8, 2, length, dropout=0.5).eval()
    for parameter in made.parameters():  # also those that start at zero must take part
        torch.nn.init.normal_(parameter, std=0.3)
    return made


PRODUCTS = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))


def test_recent_events_are_the_last_ones_in_order() -> None:
    events = recent_events(two_users_and_a_cold_one(), 2)
    assert events.length.tolist() == [2, 0, 2]
    assert events.product.tolist() == [[1, 2], [0, 0], [0, 3]]
    assert events.type.tolist() == [[4, 4], [0, 0], [0, 0]]
    assert events.day.tolist() == [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_no_events_at_all_encode_to_zeros() -> None:
    nobody = two_users_and_a_cold_one().take(np.array([1, 1]))
    events = recent_events(nobody, 3)
    users = encoder()(PRODUCTS[events.product], events, last_only=True)
    assert users.shape == (2, 1, 8)
    assert not users.any()


def test_what_comes_later_does_not_change_what_came_before() -> None:
    histories = two_users_and_a_cold_one()
    whole, shorter = recent_events(histories, 4), recent_events(histories.where(np.arange(5) != 2), 4)
    full = encoder()(PRODUCTS[whole.product], whole)
    cut = encoder()(PRODUCTS[shorter.product], shorter)
    torch.testing.assert_close(full[0, :2], cut[0, :2])


def test_the_last_place_alone_equals_the_last_of_all_places() -> None:
    events = recent_events(two_users_and_a_cold_one(), 4)
    every = encoder()(PRODUCTS[events.product], events)
    last = encoder()(PRODUCTS[events.product], events, last_only=True)[:, 0]
    torch.testing.assert_close(last[0], every[0, 2])
    torch.testing.assert_close(last[2], every[2, 1])


def test_a_batch_of_one_equals_its_row_of_a_larger_batch() -> None:
    histories = two_users_and_a_cold_one()
    together = recent_events(histories, 4)
    batch = encoder()(PRODUCTS[together.product], together, last_only=True)
    for row in range(3):
        alone = recent_events(histories.take(np.array([row])), 4)
        torch.testing.assert_close(encoder()(PRODUCTS[alone.product], alone, last_only=True)[0], batch[row])


def test_the_type_of_an_event_matters() -> None:
    histories = two_users_and_a_cold_one()
    events = recent_events(histories, 4)
    viewed = recent_events(
        Histories(histories.offsets, histories.product_index, histories.type * 0, histories.at_ms, histories.value), 4
    )
    one, other = (encoder()(PRODUCTS[given.product], given, last_only=True) for given in (events, viewed))
    assert not torch.allclose(one[0], other[0])
    torch.testing.assert_close(one[2], other[2])
