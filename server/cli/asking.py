"""What the commands share that ask a running server."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import KgrankError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kgrank.client import Client
    from kgrank.v1.common_pb2 import Reason, Result
    from server.config import Settings

Target = Annotated[
    str | None,
    typer.Option(help="Server to ask, host:port.", envvar="KGRANK_TARGET", show_default="serve.host:serve.port"),
]


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

    address = target or f"{settings.serve.host}:{settings.serve.port}"
    try:
        connected = Client(address)
    except (OSError, ValueError) as error:  # a certificate or token file that can't be read, a token in the clear
        raise AskingError(f"the server at {address} can't be asked: {error}", "See docs/security.md.") from error
    with connected as client:
        try:
            yield client
        except (UnauthenticatedError, DeniedError) as error:
            raise AskingError(
                f"the server at {address} refuses this caller: {error.message}",
                "Give a token that may: KGRANK_TOKEN_FILE, or KGRANK_TOKEN.",
            ) from error
        except ServerUnavailableError as error:
            raise AskingError(
                f"the server at {address} does not answer: {error.message}",
                "Start it with `kgrank serve`, or name another with --target or KGRANK_TARGET.",
            ) from error
        except InvalidRequestError as error:
            fields = "; ".join(f"{each.field} {each.description}" for each in error.violations)
            raise AskingError(f"the server refuses the request: {fields}") from error
        except CallError as error:
            raise AskingError(f"the server at {address} answers {error.code.name}: {error.message}") from error


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
