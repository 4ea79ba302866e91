"""Would a server that starts now know what the shop blocks?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from server.config import Settings


def check_rules(settings: "Settings") -> Iterator[Finding]:
    """Look at the copy of the shop's rules that a server reads where the graph is away."""
    from server.rule_keeper import RULES_FILE, read_copy

    file = settings.journal_file.with_name(RULES_FILE)
    try:
        yield ok("rules", f"{file.name} has a copy of {len(read_copy(file)):,} rules")
    except FileNotFoundError:
        yield warning(
            "rules",
            "there is no copy of the shop's rules: a server that starts while the graph is away waits for it "
            f"{settings.serve.rules_wait_s:g} s, and then serves without rules; what the shop blocks could be shown",
            f"A server makes the copy once it has reached the graph; or take {file.name} from another server's home.",
        )
    except OSError as error:
        yield problem(
            "rules",
            f"{file} can't be read: {error.strerror}",
            "Let the server's user read it: without it a server that starts while the graph is away serves what the "
            "shop blocks. If it may, run the doctor as that user.",
        )
    except (ValueError, TypeError, KeyError) as error:
        yield problem(
            "rules",
            f"{file} is damaged: {type(error).__name__}",
            "Remove it: the next server makes another one as soon as it has reached the graph.",
        )
