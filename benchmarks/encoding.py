"""Text features: ours against sentence-transformers' `encode` of the same encoder, on product-like texts.

The peer computes in float32, as it does by default, and where ours computes in bf16, once more in bf16: the ratio to
either is told. All encode the same texts in turns; prints one JSON line. Example:
python benchmarks/encoding.py --texts 1000
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

from model.config import TextConfig
from model.text import TextEncoder, encoder_folder

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]

WORDS = """
organic green tea leaves cordless power drill wireless mouse moisturizing cream stainless steel bottle cotton shirt men
women kids large small pack set with and for replacement premium vitamin natural shampoo conditioner spray gel usb cable
charger case cover coffee beans dark roast whole grain snack bar gluten free oz ml inch black white blue
""".split()  # noqa: SIM905  # fifty words read better so


def product_texts(count: int, generator: np.random.Generator) -> list[str]:
    """Return texts of a title, brand and category path; lengths are log-normal, as those of Amazon's Beauty."""
    texts = []
    for length in np.clip(generator.lognormal(2.75, 0.45, count), 4, 60).astype(int):
        words = generator.choice(WORDS, length)
        texts.append(" ".join(words).capitalize() + ". " + " > ".join(generator.choice(WORDS, 3)).title())
    return texts


def peer(config: TextConfig, dtype: torch.dtype) -> Encode:
    """Return sentence-transformers' `encode` of an encoder that computes in a precision."""
    model = SentenceTransformer(encoder_folder(config.encoder), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = config.max_tokens
    return partial(model.encode, show_progress_bar=False, normalize_embeddings=True)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = product_texts(options.texts, np.random.default_rng(0))
    config = TextConfig()
    ours = TextEncoder(config)
    encoders: dict[str, Encode] = {"ours": ours.encode}
    for dtype in dict.fromkeys((torch.float32, ours.dtype)):
        encoders[f"sentence_transformers_{name_of(dtype)}"] = peer(config, dtype)
    for encode in encoders.values():
        encode(texts[:64])
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    features: dict[str, npt.NDArray[np.float32]] = {}
    for _ in range(options.rounds):
        for name, encode in encoders.items():
            start = time.perf_counter()
            features[name] = encode(texts)
            seconds[name].append(time.perf_counter() - start)
    cosine = (features["ours"] * features["sentence_transformers_float32"]).sum(1)
    rate = {name: options.texts / statistics.median(values) for name, values in seconds.items()}
    tokens = [len(ids) for ids in ours.tokenizer(texts, truncation=True, max_length=config.max_tokens)["input_ids"]]
    report = {
        "benchmark": "encoding",
        "texts_per_second": {name: round(value, 1) for name, value in rate.items()},
        "ratio": {f"ours to {name}": round(rate["ours"] / rate[name], 2) for name in rate if name != "ours"},
        "cosine_to_float32": {"mean": round(float(cosine.mean()), 6), "min": round(float(cosine.min()), 6)},
        "precision": name_of(ours.dtype),
        "sizes": {**vars(options), "tokens_mean": float(np.mean(tokens)), "tokens_max": max(tokens)},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence_transformers": sentence_transformers.__version__,
        },
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
