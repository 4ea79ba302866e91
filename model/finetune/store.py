"""Fine-tuned encoders on disk: folders that any Hugging Face code can read, named by their content.

    <encoders>/<digest of the files>/model.safetensors, config.json, tokenizer.json, …    the encoder, LoRA merged
                                     finetune.toml                                        what it was made of, how good

Several runs may come to the same files: where fine-tuning does not help, the encoder stays as it was. The folder keeps
the origin of each, for none of them may be forgotten (`model.finetune.provenance`).

An artifact holds its encoder (`model.artifact`): hard links to these files, so that it costs no further space, and a
product that joins later is read by the same encoder wherever the artifact is taken.
"""

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import tomli_w
from safetensors import SafetensorError

from model.abandoned import clear_abandoned
from model.errors import ModelError
from model.text import content_digests

MANIFEST = "finetune.toml"
_PARTIAL = ".encoder."
_EARLIER = "earlier"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Origin:
    """A run that came to an encoder.

    Args:
        run_key: digest of the data and settings that it was made of.
        measures: what validation says: the `measure` it was chosen by and `measure_before` fine-tuning, its parts
            `ndcg@10` and, where there are cold products, `cold_ndcg@10`, the `epoch` and the `minutes` of the run.
        made_of: base encoder, snapshot, split and settings.
    """

    run_key: str
    measures: Mapping[str, float]
    made_of: Mapping[str, Any]

    @property
    def taught(self) -> bool:
        """Whether the encoder learned anything: epoch 0 is the base encoder as it was."""
        return self.measures.get("epoch") != 0


@dataclass(frozen=True)
class TunedEncoder:
    """A fine-tuned encoder.

    Args:
        folder: where it is; what `model.text.encoder` may name.
        content: digest of its files; the folder's name.
        origin: the run that is asked about; by default the last one.
        earlier: other runs that came to the same files.
    """

    folder: Path
    content: str
    origin: Origin
    earlier: tuple[Origin, ...] = ()

    @property
    def measures(self) -> Mapping[str, float]:
        """What validation said in that run."""
        return self.origin.measures

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All runs that came to these files."""
        return (self.origin, *self.earlier)


def save_encoder(
    encoders: Path,
    write: Callable[[Path], None],
    run_key: str,
    measures: Mapping[str, float | None],
    made_of: Mapping[str, Any],
) -> TunedEncoder:
    """Write an encoder into a new folder below `encoders`, in one step.

    Args:
        encoders: where encoders are kept; made when it isn't there.
        write: writes the encoder's files into a folder.
        run_key: digest of what it was made of.
        measures: see `Origin`.
        made_of: see `Origin`.

    Raises:
        ModelError: it can't be written (a full disk, say); nothing is left behind.
    """
    partial: Path | None = None
    try:
        encoders.mkdir(parents=True, exist_ok=True)
        clear_abandoned(encoders, _PARTIAL)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=encoders))
        write(partial)
        content = content_of(partial)
        origin = Origin(run_key, _without_none(measures), _without_none(made_of))
        earlier = tuple(each for each in _origins_there(encoders / content) if each.run_key != run_key)
        tuned = TunedEncoder(encoders / content, content, origin, earlier)
        described = {"content": content, **asdict(origin), _EARLIER: [asdict(each) for each in earlier]}
        (partial / MANIFEST).write_text(tomli_w.dumps(described), encoding="utf-8")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if tuned.folder.exists():  # the same weights by another way, or damaged ones; artifacts keep their own links
            for path in partial.iterdir():
                path.replace(tuned.folder / path.name)
            partial.rmdir()
        else:
            partial.rename(tuned.folder)
    except (OSError, SafetensorError) as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"encoder in {encoders} can't be written: {error}", "Free space or choose another folder."
        ) from error
    return tuned


def read_encoder(folder: Path) -> TunedEncoder:
    """Return what a folder's encoder says of itself, its files checked.

    Raises:
        ModelError: it is no fine-tuned encoder, or damaged.
    """
    try:
        tuned = _described(folder)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} holds no fine-tuned encoder: {error}", "Make one: kgrank finetune") from error
    if content_of(folder) != tuned.content:
        raise ModelError(f"encoder {folder} is damaged: its files are not those of {MANIFEST}", "Make it again.")
    return tuned


def find_encoder(encoders: Path, run_key: str) -> TunedEncoder | None:
    """Return the encoder that was made of the same data and settings; None where there is none that is whole."""
    for manifest in sorted(encoders.glob(f"[!.]*/{MANIFEST}")):
        folder = manifest.parent
        try:
            asked = [each for each in _described(folder).origins if each.run_key == run_key]
            if asked:
                tuned = read_encoder(folder)
                others = tuple(each for each in tuned.origins if each.run_key != run_key)
                return replace(tuned, origin=asked[0], earlier=others)
        except (OSError, KeyError, TypeError, ValueError, ModelError) as error:
            _log.warning("fine-tuned encoder is damaged, making it again", folder=str(folder), error=str(error))
    return None


def link_files(source: Path, target: Path) -> None:
    """Make a folder hold the files of another one, without further space where the file system can.

    Raises:
        OSError: it can't be written.
    """
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file():
            try:
                os.link(path.resolve(), target / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, target / path.name)


def content_of(folder: Path) -> str:
    """Return the digest of what an encoder's features depend on."""
    digest = hashlib.blake2b(digest_size=8)
    for name, found in content_digests(folder).items():
        digest.update(f"{name}\t{found}\n".encode())
    return digest.hexdigest()


def _described(folder: Path) -> TunedEncoder:
    """Return what a folder says of itself; a file that was written before origins were kept has one."""
    raw = tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    first, *earlier = (
        Origin(each["run_key"], each["measures"], each["made_of"]) for each in (raw, *raw.get(_EARLIER, ()))
    )
    return TunedEncoder(folder, raw["content"], first, tuple(earlier))


def _origins_there(folder: Path) -> tuple[Origin, ...]:
    """Return the runs that came before to the files that a folder is named by; none where it doesn't say."""
    try:
        return _described(folder).origins
    except (OSError, KeyError, TypeError, ValueError):
        return ()


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table that TOML can hold: it has no word for nothing."""
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }
