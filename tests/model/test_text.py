from pathlib import Path

import numpy as np
import pytest

from model.config import TextConfig
from model.errors import ModelError
from model.text import TextEncoder, encode_cached

TEXTS = [
    "green tea",
    "a cordless power drill with two batteries and a case",
    "",
    "green tea",
    "tea leaves, green " * 60,
]


@pytest.fixture(scope="module")
def exact() -> TextEncoder:
    return TextEncoder(TextConfig(precision="fp32"))


def test_features_do_not_depend_on_the_rest_of_the_batch(exact: TextEncoder) -> None:
    together = exact.encode(TEXTS)
    assert together.shape == (5, exact.width)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(exact.encode([text])[0], together[row], atol=1e-5)


def test_small_batches_give_the_same_features_in_the_same_order(exact: TextEncoder) -> None:
    small = TextEncoder(TextConfig(precision="fp32", batch_tokens=64))
    np.testing.assert_allclose(small.encode(TEXTS), exact.encode(TEXTS), atol=1e-5)


def test_like_texts_are_close(exact: TextEncoder) -> None:
    tea, drill, leaves = exact.encode(["green tea", "cordless drill", "loose leaf tea"])
    assert tea @ leaves > tea @ drill


def test_bf16_agrees_with_fp32(exact: TextEncoder) -> None:
    half = TextEncoder(TextConfig(precision="bf16"))
    assert (exact.encode(TEXTS) * half.encode(TEXTS)).sum(1).min() > 0.999


def test_the_cache_gives_what_the_encoder_gave_and_encodes_only_what_is_new(tmp_path: Path) -> None:
    config = TextConfig(precision="fp32")
    counts: list[int] = []
    first = encode_cached(TEXTS, config, tmp_path, counts.append)
    assert sum(counts) == len(TEXTS)
    np.testing.assert_array_equal(encode_cached(TEXTS, config, tmp_path), first)
    more = encode_cached(["a new text", *TEXTS], config, tmp_path)
    np.testing.assert_array_equal(more[1:], first)
    np.testing.assert_array_equal(first[0], first[3])


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    config = TextConfig(precision="fp32")
    first = encode_cached(TEXTS[:2], config, tmp_path)
    (file,) = (tmp_path / "text").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    np.testing.assert_array_equal(encode_cached(TEXTS[:2], config, tmp_path), first)


def test_an_encoder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be loaded"):
        TextEncoder(TextConfig(encoder=str(tmp_path / "nothing")))
