"""What a text encoder was fine-tuned on: whoever measures with it must not ask what it may have learned."""

from pathlib import Path

from model.config import TextConfig
from model.errors import ModelError
from model.finetune.store import MANIFEST, read_encoder
from model.splits import SplitConfig
from model.text import own_folder

_REMEDY = "Make one on this snapshot and split, kgrank finetune, or evaluate on those that it learned from."


class TunedElsewhereError(ModelError):
    """An encoder was fine-tuned on another snapshot or split, so that it may have learned the answers."""


def check_tuned_here(text: TextConfig, snapshot_hash: str, split: SplitConfig) -> None:
    """Make sure that neither a text encoder nor what it was made of was fine-tuned elsewhere.

    Args:
        text: names the encoder; one that nobody fine-tuned here knows no answers.
        snapshot_hash: content hash of the snapshot that is asked about.
        split: what is asked of it.

    Raises:
        TunedElsewhereError: it was fine-tuned on another snapshot or another split.
        ModelError: it is damaged.
    """
    asked = split.trained_by()
    looked_at: set[Path] = set()  # where fine-tuning did not help, an encoder is made of itself
    while (folder := own_folder(text)) and (folder / MANIFEST).is_file() and folder not in looked_at:
        looked_at.add(folder)
        made_of = read_encoder(folder).made_of
        if made_of["snapshot"] != snapshot_hash:
            raise TunedElsewhereError(
                f"encoder {folder} was fine-tuned on snapshot {made_of['snapshot'][:12]}, not on {snapshot_hash[:12]}: "
                "it may have learned the answers",
                _REMEDY,
            )
        tuned = SplitConfig.model_validate(made_of["split"]).trained_by()
        for name in asked:
            if asked[name] != tuned.get(name):
                raise TunedElsewhereError(
                    f"encoder {folder} was fine-tuned with split.{name} = {tuned.get(name)!r}, not {asked[name]!r}: "
                    "it may have learned the answers",
                    _REMEDY,
                )
        text = text.model_copy(update={"encoder": made_of["encoder"]})
