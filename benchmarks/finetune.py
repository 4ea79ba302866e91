"""Fine-tuning against the frozen encoder: NDCG@10 of ranking by text alone on Amazon Beauty, and its cost in minutes.

Both rank with the same centred cosine over the same history; frozen features are also given in their raw form. Users
whose product has at most three training interactions are the cold case. Prints one JSON line for each method, with the
lead over frozen and its paired bootstrap interval. Validation chooses the epoch; with --test the test case is asked
once. An encoder that a former run has left in --work is not made again: its minutes are those of that run, and
cpu_minutes are told by the run that made all of it. Example: python -m benchmarks.finetune --methods last
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
import torch
import transformers

from kg.snapshot import Snapshot
from model.checkpoint import EpochRecord
from model.compare.data import DataConfig, read_snapshot
from model.config import FinetuneConfig, ModelConfig, TrainConfig
from model.finetune.run import TuningListener, finetune
from model.finetune.text_ranking import Quality, TextRanker, cold_part, ndcg_of_users
from model.hold_out import without_products
from model.metrics import bootstrap
from model.splits import Case, SplitConfig, make_split
from model.text import encode_cached

ROOT = Path(__file__).parents[1]
ALSO = ("ALSO_BOUGHT", "ALSO_VIEWED", "BOUGHT_TOGETHER")
BEAUTY = DataConfig(
    source="tables",
    interactions=(Path("amazon-beauty/interactions.parquet"),),
    products=(Path("amazon-beauty/products.parquet"),),
    facts=(Path("amazon-beauty/relations.parquet"),),
    map_file=Path("beauty-map.toml"),
)
METHODS = {
    "last": {"method": "last", "layers": 2},
    "lora": {"method": "lora", "layers": 0},
    "full": {"method": "full", "learning_rate": 1e-4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="last,lora,full")
    parser.add_argument("--snapshot", type=Path, help="a snapshot folder instead of Beauty's files")
    parser.add_argument("--work", type=Path, default=ROOT / ".kgrank-finetune")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--validation-users", type=int, default=5000)
    parser.add_argument("--set", action="append", default=[], help="a setting of [finetune], as name=value")
    parser.add_argument("--products", type=int, help="a drawn part of the catalogue, validation only: for development")
    parser.add_argument("--test", action="store_true", help="report on the test case instead of validation")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    snapshot = (
        Snapshot.open(given.snapshot)
        if given.snapshot
        else read_snapshot(BEAUTY, ROOT.parent / "shared" / "data", ROOT / "configs", given.work)
    )
    split = make_split(snapshot, SplitConfig())
    if given.products:
        gone = np.ones(len(snapshot.products), np.bool_)
        gone[np.random.default_rng(7).permutation(len(gone))[: given.products]] = False
        kept = split.train.where(~gone[split.train.product_index])
        snapshot, split = without_products(snapshot, replace(split, train=kept), gone)
    model = ModelConfig(exclude_relations=ALSO)
    model = model.model_copy(update={"text": model.text.model_copy(update={"max_tokens": given.max_tokens})})
    train = TrainConfig(validation_users=given.validation_users)
    whole = split.test if given.test else split.validation
    cases = {"all": whole, "cold": cold_part(whole, split.train, FinetuneConfig().cold_interactions)}
    frozen = reached(snapshot, model, cases, given.work)
    changed = dict(setting.split("=", 1) for setting in given.set)
    for method in given.methods.split(","):
        config = FinetuneConfig.model_validate({"epochs": given.epochs} | METHODS[method] | changed)
        cpu, epochs = time.process_time(), list[int]()
        tuned = finetune(
            snapshot,
            split,
            model,
            train,
            config,
            given.work / "encoders",
            checkpoint_folder=given.work / f"checkpoint-{method}",
            resume=True,
            listener=TuningListener(on_epoch=partial(hear, epochs)),
        )
        cpu_minutes = round((time.process_time() - cpu) / 60, 1)
        text = model.text.model_copy(update={"encoder": str(tuned.folder)})
        values = reached(snapshot, model.model_copy(update={"text": text}), cases, given.work)
        report = {
            "benchmark": "finetune",
            "method": method,
            "case": whole.name,
            "products": len(snapshot.products),
            "users": {name: len(case) for name, case in cases.items()},
            "ndcg@10": {name: round(float(values[name].mean()), 4) for name in cases},
            "frozen": {name: round(float(frozen[name].mean()), 4) for name in cases},
            "frozen_raw": {name: round(float(frozen[f"{name}, raw"].mean()), 4) for name in cases},
            "lead": {name: interval(values[name] - frozen[name]) for name in cases},
            "epoch": tuned.measures["epoch"],
            "minutes": tuned.measures["minutes"],
            "cpu_minutes": cpu_minutes if 0 in epochs else None,
            "settings": config.model_dump(mode="json", exclude_defaults=True),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        }
        print(json.dumps(report), flush=True)


def hear(epochs: list[int], record: EpochRecord, quality: Quality) -> None:
    """Note and show an epoch. Epoch 0, the encoder as it was, is not heard of a run that is found or gone on with."""
    epochs.append(record.epoch)
    print(f"# epoch {record.epoch} {record.loss:.4f} {quality}", file=sys.stderr, flush=True)


def reached(
    snapshot: Snapshot, model: ModelConfig, cases: dict[str, Case], work: Path
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return NDCG@10 of every user of each case, by an encoder's features."""
    texts = snapshot.catalogue["text"].to_pylist()
    features = torch.from_numpy(encode_cached(texts, model.text, work / "cache"))
    found = {}
    for name, case in cases.items():
        found[name] = ndcg_of_users(TextRanker(features, model.text_decay, model.history_length), case)
        raw = TextRanker(features, model.text_decay, model.history_length, centre=False)
        found[f"{name}, raw"] = ndcg_of_users(raw, case)
    return found


def interval(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    """Return mean and bounds of a paired difference."""
    found = bootstrap(values[:, None], np.random.default_rng(7))[0]
    return [round(bound, 4) for bound in (found.mean, found.low, found.high)]


if __name__ == "__main__":
    main()
