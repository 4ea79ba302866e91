"""What the commands share that ask a running server."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import KgrankError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kgrank.client import Client
    from kgrank.errors import ServerUnavailableError
    from kgrank.v1.common_pb2 import Reason, Result
    from server.config import Settings

MAX_RESULTS = 10_000
"""The largest k that a server can be set to take: `serve.max_results`."""

_FROM_INPUT = "-"


def user_id(given: str) -> str:
    """Return a user's id as given, or the one that standard input has."""
    if given != _FROM_INPUT:
        return given
    try:
        line = sys.stdin.readline().removesuffix("\n")
        line.encode()
    except UnicodeError as error:
        raise typer.BadParameter("standard input is not UTF-8 text") from error
    if not line:
        raise typer.BadParameter("standard input has no line with a user's id")
    return line


UserId = Annotated[
    str,
    typer.Argument(
        parser=user_id,
        metavar="USER",
        help="The user's id; - reads it from standard input, where neither the list of processes nor a shell's "
        "history shows it.",
    ),
]
"""A user's id tells of a person, so commands on a shared machine need not be given it in their arguments."""

Target = Annotated[
    str | None,
    typer.Option(help="Server to ask, host:port.", envvar="KGRANK_TARGET", show_default="serve.host:serve.port"),
]

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # not to listen there
_SEE = 'See "What a caller sets" in docs/security.md.'
_HUNG_UP = (
    "hangs up on this caller",
    "Where it has TLS, set KGRANK_CA_FILE or KGRANK_TLS=true; where it wants certificates of callers, "
    f"KGRANK_CERTIFICATE_FILE and KGRANK_KEY_FILE. {_SEE}",
)
_NO_AGREEMENT = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "has a certificate that this caller does not trust",
        "Name the certificates that vouch for it in KGRANK_CA_FILE.",
    ),
    (
        "Hostname Verification",
        "has a certificate for another name",
        "Ask it by a name that its certificate has: --target or KGRANK_TARGET.",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "speaks no TLS",
        "Leave out KGRANK_TLS, KGRANK_CA_FILE and KGRANK_CERTIFICATE_FILE, or set the server's serve.tls.",
    ),
    (
        "security handshaker",
        "can't be asked with these certificates",
        "KGRANK_CA_FILE, KGRANK_CERTIFICATE_FILE and KGRANK_KEY_FILE are PEM files.",
    ),
    ("Socket closed", *_HUNG_UP),
    ("Connection reset by peer", *_HUNG_UP),
)
"""What gRPC says where a server is there and no call gets through, what that means, and what to do."""


class AskingError(KgrankError):
    """The server could not be asked, or refused."""


@contextmanager
def asking(target: str | None, settings: "Settings") -> Iterator["Client"]:
    """Open a client; a call that fails ends in one sentence.

    Raises:
        AskingError: the call failed.
    """
    from kgrank.client import Client
    from kgrank.errors import CallError, DeniedError, InvalidRequestError, ServerUnavailableError, UnauthenticatedError

    address = target or own_address(settings)
    try:
        connected = Client(address)
    except (OSError, ValueError) as error:  # a certificate or token file that can't be read, a token in the clear
        raise AskingError(f"the server at {address} can't be asked: {error}", _SEE) from error
    with connected as client:
        try:
            yield client
        except (UnauthenticatedError, DeniedError) as error:
            raise AskingError(
                f"the server at {address} refuses this caller: {error.message}",
                "Give a token that may: KGRANK_TOKEN_FILE, or KGRANK_TOKEN.",
            ) from error
        except ServerUnavailableError as error:
            raise _unavailable(address, error) from error
        except InvalidRequestError as error:
            fields = "; ".join(f"{each.field} {each.description}" for each in error.violations)
            raise AskingError(f"the server refuses the request: {fields}") from error
        except CallError as error:
            raise AskingError(f"the server at {address} answers {error.code.name}: {error.message}") from error


def own_address(settings: "Settings") -> str:
    """Return where this machine reaches a server with these settings; one that listens everywhere is at localhost."""
    from server.listening import address_of

    host = settings.serve.host
    return address_of("localhost" if host in _EVERYWHERE else host, settings.serve.port)


def _unavailable(address: str, error: "ServerUnavailableError") -> AskingError:
    """Say why nothing came back, which gRPC tells in its sentence alone: nobody is there, or the two can't agree."""
    said = error.message
    if error.reason:
        return AskingError(f"the server at {address} can't do that now: {said}", "Its log and `kgrank doctor` say why.")
    for sign, problem, remedy in _NO_AGREEMENT:
        if sign in said:
            return AskingError(f"the server at {address} {problem}: {said}", remedy)
    return AskingError(
        f"the server at {address} does not answer: {said}",
        "Start it with `kgrank serve`, or name another with --target or KGRANK_TARGET.",
    )


def as_json(message: "Message") -> dict[str, Any]:
    """Return a message as JSON, field names as in the contract, unset fields included."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def component_names(results: "Sequence[Result]") -> list[str]:
    """Return the components that any of the scores has, in the contract's order: those that a table needs to add up."""
    names = {field.name: None for result in results for field, value in result.components.ListFields() if value}
    known = results[0].components.DESCRIPTOR.fields if results else ()
    return [field.name for field in known if field.name in names]


def reason_lines(reasons: "Iterable[Reason]") -> list[str]:
    """Return each reason in plain words."""
    return [f"· {reason.text}" for reason in reasons]
