"""Is there room, may we write, and can nobody read who should not?"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kg.errors import BackupError
from server.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from server.config import Settings

_LEAST_FREE = 256 << 20
_LITTLE_FREE = 2 << 30
_LITTLE_SHARE = 0.05


def check_home(settings: "Settings") -> Iterator[Finding]:
    """Look at disk and permissions of home, and of what in it may lie on other disks."""
    home = settings.home.resolve()
    if not home.is_dir():
        yield warning("home", f"{home} does not exist yet", "`kgrank load` or `kgrank demo` makes it.")
    folders = [home, settings.artifacts_folder, settings.snapshots_folder]
    if settings.graph.uri is None:
        folders.append(settings.graph_folder)
    places = list(dict.fromkeys(_there(folder.resolve()) for folder in folders))
    closed = [place for place in places if not os.access(place, os.W_OK | os.X_OK)]
    for place in closed:
        yield problem(
            "home", f"{place} can't be written by this user", "Mend its owner or how it is mounted, or set KGRANK_HOME."
        )
    if home in places and not closed:
        yield ok("home", f"{home} can be written")
    for place in {place.stat().st_dev: place for place in reversed(places)}.values():
        yield _disk(place)
    yield from _whole(settings)
    yield from _private(settings)


def _there(folder: Path) -> Path:
    """Return a folder, or the one in which it would be made."""
    # `Path.is_dir` raises where this user may not enter the folder that it is in.
    return next(each for each in (folder, *folder.parents) if os.path.isdir(each))  # noqa: PTH112


def _disk(place: Path) -> Finding:
    usage = shutil.disk_usage(place)
    free = f"{usage.free / (1 << 30):.1f} GiB of {place}'s disk are free"
    if usage.free < _LEAST_FREE:
        return problem("disk", free, "Free some space: on a full disk no event, model or snapshot can be written.")
    if usage.free < _LITTLE_FREE or usage.free < _LITTLE_SHARE * usage.total:
        return warning("disk", free, "Free some space before it is full; old snapshots and artifacts are folders.")
    return ok("disk", free)


def _whole(settings: "Settings") -> Iterator[Finding]:
    from server.remembered import refuse_stopped

    try:
        refuse_stopped(settings.home)
    except BackupError as error:
        yield problem("home", error.problem, error.remedy)


def _private(settings: "Settings") -> Iterator[Finding]:
    """Look at files that hold secrets or what people did."""
    access = settings.serve.access
    secret = [settings.tokens_file, settings.audit_file, settings.serve.tls.key_file, settings.graph.password_file]
    secret += [settings.audit_file.with_name(settings.audit_file.name + ".key"), *settings.home.glob("journal*.db*")]
    there = [path for path in secret if path is not None and path.is_file()]
    # A group may share what a deployment mounts; the world may not.
    open_to_all = [path for path in there if path.stat().st_mode & 0o007]
    for path in open_to_all:
        yield warning("permissions", f"everybody on this machine can read {path}", f"chmod o-rwx {path}")
    if there and not open_to_all:
        yield ok("permissions", "secrets are readable by their owner alone")
    if access.required and access.jwt.key_file is None and not access.certificate_roles:
        from server.access.tokens import read

        records, now_ms = read(settings.tokens_file), time.time() * 1000
        good = [each for each in records if each.expires_ms is None or each.expires_ms > now_ms]
        if not good:
            file = settings.tokens_file
            lacks = f"all {len(records):,} of {file} have expired" if records else f"{file} has none"
            yield problem("permissions", f"callers need tokens, and {lacks}", "kgrank token create NAME")
