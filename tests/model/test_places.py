import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from model.places import Places


def drawn(count: int, dimensions: int, seed: int) -> npt.NDArray[np.float32]:
    """Products whose dimensions have scales of their own, some of them all zeros."""
    generator = np.random.default_rng(seed)
    scales = generator.choice([0, 0.01, 1, 30], dimensions)
    made: npt.NDArray[np.float32] = (generator.normal(size=(count, dimensions)) * scales).astype(np.float32)
    return made


def between(
    matrix: npt.NDArray[np.float32], vector: npt.NDArray[np.float32], score: float, apart: npt.NDArray[np.int64]
) -> range:
    """What a count may be: scores that float32 can't tell from the one may be on either side."""
    scores = np.delete(matrix.astype(np.float64) @ vector.astype(np.float64), apart)
    close = 1e-5 * (1 + np.linalg.norm(vector) * np.linalg.norm(matrix, axis=1).max(initial=0))
    return range(int((scores > score + close).sum()), int((scores > score - close).sum()) + 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32), st.floats(-3, 3))
def test_as_many_are_above_as_all_scores_say(count: int, dimensions: int, seed: int, deviations: float) -> None:
    matrix, generator = drawn(count, dimensions, seed), np.random.default_rng(seed)
    vector = generator.normal(size=dimensions).astype(np.float32)
    apart = generator.choice(count, generator.integers(count), replace=False)
    scores = matrix @ vector
    score = float(scores.mean() + deviations * scores.std())
    assert Places(matrix).above(vector, score, apart) in between(matrix, vector, score, apart)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.integers(0, 60), st.integers(0, 2**32))
def test_a_changed_catalogue_is_counted_as_it_is(count: int, more: int, seed: int) -> None:
    before, generator = drawn(count, 12, seed), np.random.default_rng(seed)
    after = np.concatenate([before, 5 * drawn(more, 12, seed + 1)])  # further out than the scales were made for
    other = np.concatenate([generator.choice(count, count // 3, replace=False), np.arange(count, count + more)])
    after[other] += generator.normal(size=(len(other), 12)).astype(np.float32)
    known = Places(before)
    places = known.following(after, other)
    vector = generator.normal(size=12).astype(np.float32)
    nobody = np.empty(0, np.int64)
    for matrix, counted in ((after, places), (before, known)):
        for score in np.quantile(matrix @ vector, [0, 0.5, 0.99]).tolist():
            assert counted.above(vector, score, nobody) in between(matrix, vector, score, nobody)


def test_nothing_is_known_of_a_user_without_a_vector() -> None:
    places, nobody = Places(drawn(100, 8, 1)), np.empty(0, np.int64)
    assert places.above(np.zeros(8, np.float32), 0.0, nobody) == 0
    assert places.above(np.zeros(8, np.float32), -1.0, nobody) == 100


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 400), st.integers(0, 2**32))
def test_a_place_counts_what_is_added_and_passes_over_what_is_gone(count: int, seed: int) -> None:
    matrix, generator = drawn(count, 12, seed), np.random.default_rng(seed)
    vector = generator.normal(size=12).astype(np.float32)
    added_index = np.sort(generator.choice(count, count // 2, replace=False)).astype(np.int32)
    added_score = generator.normal(0, 20, len(added_index)).astype(np.float32)
    product, *gone = generator.choice(count, 1 + count // 4, replace=False).tolist()
    scores = matrix.astype(np.float64) @ vector.astype(np.float64)
    scores[added_index] += added_score
    others = np.delete(scores, [product, *gone])
    close = 1e-5 * (1 + np.linalg.norm(vector) * np.linalg.norm(matrix, axis=1).max()) + 1e-4
    least, most = (1 + int((others > scores[product] + each).sum()) for each in (close, -close))
    place = Places(matrix).place(product, vector, added_index, added_score, np.array(gone, np.int64))
    assert least <= place <= most


def test_who_is_ahead_by_little_is_ahead_and_equal_products_stand_in_their_order() -> None:
    # At lengths that multiply to 60, 4e-5 is less than a generous bound on rounding, and far more than rounding.
    matrix = np.zeros((6, 16), np.float32)
    matrix[:, 0], matrix[:, 1] = 5.0, np.linspace(3, 4, 6)
    matrix[1:4, 1] = [3.50002, 3.5, 3.5]
    vector, nobody = np.zeros(16, np.float32), np.empty(0, np.int64)
    vector[:2] = 10, 2
    scores = matrix @ vector
    assert 2e-5 < scores[1] - scores[2] < 5e-5
    order = np.argsort(-scores, kind="stable").tolist()
    for added in ([], [2, 3], [1, 2, 3], range(6)):
        added_index = np.array(added, np.int32)
        places = [
            Places(matrix).place(product, vector, added_index, np.zeros(len(added_index), np.float32), nobody)
            for product in order
        ]
        assert places == [1, 2, 3, 4, 5, 6]
    ones = Places(np.ones((200, 40), np.float32))
    someone = np.linspace(0.1, 0.7, 40, dtype=np.float32)
    nothing = np.empty(0, np.int32), np.empty(0, np.float32)
    assert [ones.place(each, someone, *nothing, nobody) for each in (0, 7, 199)] == [1, 8, 200]
