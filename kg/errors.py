"""Our errors: a small tree, each saying what was wrong, where, and what to do.

Every error that a user can cause or mend derives from `KgrankError`; the command line prints its text without a
traceback, and the server maps it to a gRPC status in one table.
"""


class KgrankError(Exception):
    """Something a user can understand and mend.

    Args:
        problem: what was wrong, where, and what was got instead.
        remedy: what to do about it; printed on a line of its own.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}" if self.remedy else self.problem


class ConfigError(KgrankError):
    """A setting is missing, malformed or out of range."""


class MissingExtraError(KgrankError):
    """A package that belongs to an extra of kgrank is not installed."""


class DataError(KgrankError):
    """An input file or table can't be used."""


class SnapshotError(KgrankError):
    """A snapshot is damaged, of another schema version, or not there."""


class BackupError(KgrankError):
    """A backup can't be taken or restored."""


class GraphError(KgrankError):
    """The graph store refused or failed a request."""


class GraphUnavailableError(GraphError):
    """The graph store can't be reached, or is still starting."""


class JarFetchError(GraphError):
    """A jar of the embedded Neo4j is not on this machine, and can't be fetched."""


class GraphAuthError(GraphError):
    """The graph store refused the user or password."""


class GraphSetupError(GraphError):
    """The graph store is not set up for us: no such database, no right to write, an expired password."""


class GraphDiskError(GraphError):
    """The graph store can't write any more: its disk is full or failing, and it has to be restarted."""


class GraphFullError(GraphDiskError):
    """The graph store has no room left to write."""


class GraphBusyError(GraphError):
    """Others were in the way for too long; nothing of the request was done, and trying again helps."""


class GraphMemoryError(GraphBusyError):
    """The graph store's memory is too small for a request, at least beside others; nothing of it was done."""


class GraphKeyError(GraphError):
    """A node or relationship that a write would make is there already; nothing of it was done."""


class GraphQueryError(GraphError):
    """The graph store does not understand a query, or it writes where that was not asked for."""
