import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.config import TextConfig
from model.errors import ModelError
from model.text import TextEncoder, encode_cached, encoder_digest
from tests.model.tiny_encoder import tiny_encoder

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


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    dead, living = (tmp_path / "text" / name for name in (".text.dead", ".text.living"))
    for folder in (dead, living):
        folder.mkdir(parents=True)
        (folder / ".tmp1234").write_bytes(b"half a file")
    yesterday = time.time() - 86_400
    for path in (*dead.iterdir(), dead, living):  # its file has just been written to
        os.utime(path, (yesterday, yesterday))
    encode_cached(["green tea"], TextConfig(encoder=str(tiny_encoder(tmp_path / "encoder"))), tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_only_weights_that_tell_encoders_apart_are_read(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "encoder")
    config = TextConfig(encoder=str(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    before = encoder_digest(config)
    (folder / "model.safetensors").unlink()
    for read in (TextEncoder, encoder_digest, lambda config: encode_cached(["green tea"], config, tmp_path)):
        with pytest.raises(ModelError, match="can't be loaded"):
            read(config)
    assert before == encoder_digest(TextConfig(encoder=str(tiny_encoder(tmp_path / "again"))))


def test_an_encoder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be loaded"):
        TextEncoder(TextConfig(encoder=str(tmp_path / "nothing")))
