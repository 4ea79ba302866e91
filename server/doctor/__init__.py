"""What is wrong with an installation, in plain words: each check returns findings, and changes nothing."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kg.errors import KgrankError
from server.doctor.findings import Finding, problem
from server.doctor.graph import check_graph
from server.doctor.home import check_home
from server.doctor.journal import check_journal
from server.doctor.models import check_models
from server.doctor.packages import check_packages
from server.doctor.rules import check_rules
from server.doctor.service import check_service

if TYPE_CHECKING:
    from server.config import Settings

_CHECKS: tuple[tuple[str, "Callable[[Settings], Iterator[Finding]]"], ...] = (
    ("packages", check_packages),
    ("home", check_home),
    ("graph", check_graph),
    ("models", check_models),
    ("journal", check_journal),
    ("rules", check_rules),
    ("service", check_service),
)


def diagnose(settings: "Settings") -> Iterator[Finding]:
    """Yield what each check finds, as it finds it; a check that fails itself is a finding."""
    for name, check in _CHECKS:
        try:
            yield from check(settings)
        except KgrankError as error:
            yield problem(name, error.problem, error.remedy)
        except PermissionError as error:
            remedy = "Run the doctor as the user that the server runs as; that user has to be let in there."
            yield problem(name, f"this user lacks a right: {error}", remedy)
        except Exception as error:
            # Whatever an installation is like, the other checks are made, too.
            yield problem(name, f"the check failed: {type(error).__name__}: {error}", "Please report this.")
