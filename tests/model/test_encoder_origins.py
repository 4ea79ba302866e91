"""What an encoder's folder says of where it comes from, also when several runs came to the same files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from kg.snapshot import Snapshot
from model.config import FinetuneConfig, ModelConfig, TextConfig
from model.finetune.provenance import TunedElsewhereError, check_tuned_here
from model.finetune.run import finetune
from model.finetune.store import MANIFEST, TunedEncoder, find_encoder, read_encoder
from model.splits import SplitConfig, make_split
from tests.model.riddle_shop import riddle_shop
from tests.model.small_shop import MODEL, TRAIN
from tests.model.tiny_encoder import tiny_encoder

LEARNS = FinetuneConfig(
    method="full", epochs=2, batch_products=4, learning_rate=5e-3, temperature=0.2, cold_interactions=0
)
DOES_NOT_HELP = LEARNS.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
TODAY, TOMORROW = riddle_shop(), riddle_shop(new=("zebra",))
Tune = Callable[[Snapshot, FinetuneConfig, Path | None], TunedEncoder]


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    plain = tiny_encoder(tmp_path / "plain")

    def tuned(snapshot: Snapshot, config: FinetuneConfig, base: Path | None = None) -> TunedEncoder:
        split = make_split(snapshot, SplitConfig())
        return finetune(snapshot, split, model_with(base or plain), TRAIN, config, tmp_path / "encoders")

    return tuned


def model_with(encoder: Path) -> ModelConfig:
    text = TextConfig(encoder=str(encoder), precision="fp32", batch_tokens=64)
    return MODEL.model_copy(update={"text": text})


def check(tuned: TunedEncoder, snapshot: Snapshot, split: SplitConfig | None = None) -> None:
    check_tuned_here(model_with(tuned.folder).text, snapshot.content_hash, split or SplitConfig())


def test_fine_tuning_that_does_not_help_makes_nobody_forget_what_the_encoder_learned(tune: Tune) -> None:
    plain = tune(TODAY, DOES_NOT_HELP, None)  # a tokenizer that was saved once is saved alike from then on
    first = tune(TODAY, LEARNS, plain.folder)
    assert first.measures["epoch"] > 0
    second = tune(TOMORROW, DOES_NOT_HELP, first.folder)
    assert second.folder == first.folder
    assert second.measures["epoch"] == 0
    check(second, TODAY)
    with pytest.raises(TunedElsewhereError, match=f"fine-tuned on snapshot {TODAY.content_hash[:12]}"):
        check(second, TOMORROW)
    with pytest.raises(TunedElsewhereError, match="cold-products"):
        check(second, TODAY, SplitConfig(protocol="cold-products"))
    # Both runs are found again, each with what it measured.
    for run in (first, second):
        found = find_encoder(first.folder.parent, run.origin.run_key)
        assert found is not None
        assert (found.folder, found.origin) == (run.folder, run.origin)
    assert tune(TODAY, LEARNS, plain.folder).measures == first.measures
    assert len(read_encoder(first.folder).origins) == 2


def test_an_encoder_that_no_run_taught_anything_is_of_each_that_tried(tune: Tune) -> None:
    today = tune(TODAY, DOES_NOT_HELP, None)
    with pytest.raises(TunedElsewhereError):
        check(today, TOMORROW)
    tomorrow = tune(TOMORROW, DOES_NOT_HELP, None)
    assert tomorrow.folder == today.folder
    for snapshot in (TODAY, TOMORROW):
        check(tomorrow, snapshot)


def test_a_file_of_before_with_one_origin_is_read_and_believed(tune: Tune) -> None:
    tuned = tune(TODAY, LEARNS, None)
    origin = {"run_key": "a-run", "measures": dict(tuned.measures), "made_of": dict(tuned.origin.made_of)}
    manifest = tuned.folder / MANIFEST
    manifest.write_text(tomli_w.dumps({"content": tuned.content, **origin}), encoding="utf-8")
    assert read_encoder(tuned.folder).origin.run_key == "a-run"
    check(tuned, TODAY)
    with pytest.raises(TunedElsewhereError):
        check(tuned, TOMORROW)
    # Where one run had replaced the other, what the encoder learned is not known: it is of the last one's snapshot.
    origin["measures"] = {"epoch": 0}
    origin["made_of"] = {**tuned.origin.made_of, "encoder": str(tuned.folder), "snapshot": TOMORROW.content_hash}
    manifest.write_text(tomli_w.dumps({"content": tuned.content, **origin}), encoding="utf-8")
    with pytest.raises(TunedElsewhereError):
        check(tuned, TODAY)
