"""A shop's server with a graph, what is stored about a user, and where an id is found."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from kg.erasure import erase_user
from kg.errors import GraphBusyError
from kg.store import Graph
from kgrank.client import Client
from tests.server.running import Running, running
from tests.waiting import until


@contextmanager
def shop_server(home: Path, graph: Graph, **settings: Any) -> Iterator[tuple[Running, Client]]:
    with running(home, lambda: nullcontext(graph), **settings) as server, Client(server.target) as client:
        until(lambda: server.server.graph_open)
        yield server, client


def refused_while_set(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return a set event: while it is, the graph refuses erasures, which are tried again after .2 s."""
    busy = threading.Event()
    busy.set()

    def refusing(*asked: Any) -> Any:
        if busy.is_set():
            raise GraphBusyError("others are in the way", "Try again.")
        return erase_user(*asked)

    monkeypatch.setattr("server.erasing.erase_user", refusing)
    monkeypatch.setattr("server.erasing._FIRST_RETRY_S", 0.2)
    return busy


def publish_for(graph: Graph, user_id: str) -> None:
    graph.write(
        "MERGE (u:User {id: $user}) SET u.attribute_keys = ['city'], u.attribute_values = ['Bern'] "
        "WITH u MATCH (p:Product {id: 'product-01'}) CREATE (u)-[:RECOMMENDED {rank: 1, score: 2.0, model: 'm'}]->(p) "
        "MERGE (q:Query {text: 'a gift for my daughter'}) CREATE (u)-[:SEARCHED {at: 5}]->(q) "
        "MERGE (a:Attribute {id: 'city=Bern', key: 'city', value: 'Bern'}) "
        "CREATE (u)-[:HAS_ATTRIBUTE {from_catalogue: true}]->(a)",
        user=user_id,
    )


def lines_of(client: Client, user_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.export_user(user_id)]


def files_with(folder: Path, text: str) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    )


def properties(graph: Graph) -> str:
    """Return all properties of all nodes and relationships, elements of lists among them."""
    of_both = graph.read("MATCH (n) RETURN properties(n)"), graph.read("MATCH ()-[r]->() RETURN properties(r)")
    assert all(of_both)
    return repr(of_both)
