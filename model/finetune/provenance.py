"""What a text encoder was fine-tuned on: whoever measures with it must not ask what it may have learned.

Several runs may have come to one encoder. All that taught it something count; where none did, one of them is enough.
"""

from pathlib import Path

from model.config import TextConfig
from model.errors import ModelError
from model.finetune.store import MANIFEST, Origin, read_encoder
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
    waiting, looked_at = [text], set[Path]()  # where fine-tuning did not help, an encoder may be made of itself
    while waiting:
        folder = own_folder(waiting.pop())
        if folder is None or folder in looked_at or not (folder / MANIFEST).is_file():
            continue
        looked_at.add(folder)
        origins = read_encoder(folder).origins
        taught = [origin for origin in origins if origin.taught]
        elsewhere = [_elsewhere(origin, snapshot_hash, split) for origin in taught or origins]
        told = [why for why in elsewhere if why]
        if told and (taught or len(told) == len(elsewhere)):
            raise TunedElsewhereError(
                f"encoder {folder} was fine-tuned {told[0]}: it may have learned the answers", _REMEDY
            )
        waiting += [text.model_copy(update={"encoder": origin.made_of["encoder"]}) for origin in origins]


def _elsewhere(origin: Origin, snapshot_hash: str, split: SplitConfig) -> str:
    """Return what sets a run apart from what is asked; nothing where it was made of the same."""
    made_of = origin.made_of
    if made_of["snapshot"] != snapshot_hash:
        return f"on snapshot {made_of['snapshot'][:12]}, not on {snapshot_hash[:12]}"
    asked, tuned = split.trained_by(), SplitConfig.model_validate(made_of["split"]).trained_by()
    for name in asked:
        if asked[name] != tuned.get(name):
            return f"with split.{name} = {tuned.get(name)!r}, not {asked[name]!r}"
    return ""
