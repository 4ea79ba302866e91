"""What an error of Neo4j's driver, or an answer of the store, means: one of `kg.errors`, in one place.

Only where nothing else is known does a text hold the store's own words, which may quote what was asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import neo4j.exceptions

from kg.errors import (
    GraphAuthError,
    GraphBusyError,
    GraphDiskError,
    GraphError,
    GraphFullError,
    GraphKeyError,
    GraphMemoryError,
    GraphQueryError,
    GraphSetupError,
    GraphUnavailableError,
)

_BUSY_CODES = ("TransactionTimedOut", "Transaction.Terminated", "LockClientStopped", "EntityNotFound")
"""Ends of a transaction that the driver does not count as passing, and that leave nothing done; the last is of one that
met what another had just removed."""


@contextmanager
def our_errors(place: str) -> Iterator[None]:
    """Map the driver's errors to ours, in one place."""
    try:
        yield
    except (neo4j.exceptions.AuthError, neo4j.exceptions.TokenExpired) as error:
        raise GraphAuthError(
            f"the graph at {place} refuses this user or password",
            "Check KGRANK_NEO4J_USER and KGRANK_NEO4J_PASSWORD (or KGRANK_NEO4J_PASSWORD_FILE).",
        ) from error
    except (
        neo4j.exceptions.ServiceUnavailable,
        neo4j.exceptions.SessionExpired,
        neo4j.exceptions.DatabaseUnavailable,
    ) as error:
        raise GraphUnavailableError(
            f"the graph at {place} does not answer", "Is it running? kgrank graph status, or check KGRANK_NEO4J_URI."
        ) from error
    except neo4j.exceptions.ConfigurationError as error:
        raise GraphError(f"the graph's address {place!r} can't be used: {error}", "Write bolt://host:7687.") from error
    except neo4j.exceptions.ConstraintError as error:
        # Without its message, which quotes the properties: ids of people must not reach a log.
        raise GraphKeyError(
            "the graph refused a write: a node or relationship with this key is there already", f"({error.code})"
        ) from None
    except neo4j.exceptions.Neo4jError as error:
        raise _refusal(error, place) from error
    except (neo4j.exceptions.DriverError, OSError) as error:
        raise GraphUnavailableError(f"the graph at {place} can't be used: {error}", "Check graph.uri.") from error
    except (ValueError, OverflowError) as error:
        raise _unsendable(error, place) from error


def _unsendable(error: ValueError | OverflowError, place: str) -> GraphError:
    """Return what it means that something could not be sent to the store, which is there as before."""
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        return GraphQueryError(f"a text can't be sent to the graph: {error}", "Take the half of a character out of it.")
    if isinstance(error, OverflowError):
        return GraphQueryError(f"a number can't be sent to the graph: {error}", "Take one of at most 64 bits.")
    return GraphError(f"the graph at {place} can't be asked: {error}", "Check graph.uri, and what was asked.")


def _refusal(error: neo4j.exceptions.Neo4jError, place: str) -> GraphError:
    """Return what an answer of the store means; only the text of the last one holds the store's own words."""
    message, code = str(error.message or ""), str(error.code or "")
    if "AccessMode" in code or "Writing in read access mode" in message:
        return GraphQueryError("this query writes, and writing was not asked for", "Add --write if it is meant to.")
    if "TransactionLogError" in code or "No space left" in message or "critical error" in message:
        kind = GraphFullError if "No space left" in message else GraphDiskError
        return kind(
            f"the graph at {place} can't write: its disk is full or failing",
            "Free some space. A Neo4j of your own has then to be killed (SIGKILL) and started: stopped in order, it "
            "may leave a log that it can't read. What was committed is kept.",
        )
    if "DatabaseUnavailable" in code:
        return GraphUnavailableError(f"the graph at {place} does not answer now", "Is it starting, or stopping?")
    if "DatabaseNotFound" in code:
        return GraphSetupError(f"the server at {place} has no such database", "Check KGRANK_NEO4J_DATABASE.")
    if isinstance(error, neo4j.exceptions.ForbiddenOnReadOnlyDatabase):
        return GraphSetupError(f"the database at {place} can only be read", "Let it be written to.")
    if isinstance(error, neo4j.exceptions.Forbidden) or "CredentialsExpired" in code:
        return GraphSetupError(
            f"the graph at {place} does not allow this user what a query needs",
            f"Check the rights and the password of KGRANK_NEO4J_USER ({code}).",
        )
    if "OutOfMemory" in code:
        return GraphMemoryError(
            f"the graph at {place} has too little memory for a query; nothing was done",
            "Raise graph.heap_mib. A Neo4j of your own has its heap, and dbms.memory.transaction.total.max, in its own "
            f"configuration ({code}).",
        )
    if isinstance(error, neo4j.exceptions.TransientError) or any(each in code for each in _BUSY_CODES):
        return GraphBusyError(
            f"the graph at {place} was too busy for a query; nothing was done", f"Try again ({code})."
        )
    if ".Statement." in code:
        return GraphQueryError(f"the graph refused a query: {message}", f"({code})")
    return GraphError(f"the graph refused a query: {message}", f"({code})")
