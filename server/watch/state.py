"""What is looked up of a server at each scrape: queues, the journal's lag, the models in service, its certificate."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kg.errors import KgrankError
from server.erasing import Eraser
from server.follow import Follower
from server.graph_link import GraphLink
from server.journal import Journal
from server.rule_keeper import RuleKeeper
from server.serving import Serving
from server.watch.answers import AnswerWatch
from server.watch.metrics import Reader, Reading


class State:
    """Reads the gauges of one server; called by the threads that answer scrapes.

    Args:
        serving: what is in service.
        rules: the shop's.
        follower: applies what other servers committed.
        link: the graph.
        journal: the event journal.
        eraser: erases users.
        answers: what was seen of the answers.
        certificate_ends_s: returns when the server's certificate ends, if it has one.
    """

    def __init__(
        self,
        serving: Serving,
        rules: RuleKeeper,
        follower: Follower,
        link: GraphLink[Any],
        journal: Journal,
        eraser: Eraser,
        answers: AnswerWatch,
        certificate_ends_s: Callable[[], float] | None,
    ) -> None:
        self._serving, self._rules, self._journal = serving, rules, journal
        self._follower, self._link = follower, link
        self._eraser, self._answers, self._certificate_ends_s = eraser, answers, certificate_ends_s

    def readers(self) -> Sequence[Reader]:
        """Return what reads the values of now, each some that belong together."""
        return (
            self._calls,
            self._journalled,
            self._searched,
            self._redacted,
            self._graph,
            self._models,
            self._snapshot,
            self._answered,
            self._certificate,
        )

    def _calls(self) -> Iterator[Reading]:
        calls = self._serving.calls
        yield "calls_admitted", "Ranking calls that are worked on or wait for it.", "", {"": calls.taken}
        yield "calls_admitted_limit", "Ranking calls at once before new ones are refused.", "", {"": calls.places}

    def _journalled(self) -> Iterator[Reading]:
        text, waiting, oldest_ms = "Whether the journal's file can be read.", self._link.configured, None
        try:
            erasures = len(self._journal.pending_erasures())
            if waiting:  # else nothing waits: the journal is where events are kept
                oldest_ms = self._journal.oldest_undrained_ms()
        except sqlite3.Error:
            yield "journal_readable", text, "", {"": 0.0}
            return
        yield "journal_readable", text, "", {"": 1.0}
        if waiting:
            age_s = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
            text, behind = "Events on disk that the graph is not known to have.", self._journal.behind
            yield "journal_events_waiting", text, "", {"": behind}
            yield "journal_lag_seconds", "Age of the oldest of those events.", "", {"": age_s}
        yield "erasures_waiting", "Erasures of users that are begun and not done.", "", {"": erasures}

    def _searched(self) -> Iterator[Reading]:
        searches = self._journal.searches_behind
        yield "journal_searches_waiting", "Searches on disk that the graph does not have.", "", {"": searches}

    def _redacted(self) -> Iterator[Reading]:
        text = "0 where a snapshot could not be rewritten without an erased user."
        yield "snapshots_redacted", text, "", {"": float(self._eraser.redacted)}

    def _graph(self) -> Iterator[Reading]:
        if self._link.configured:
            yield "graph_up", "Whether the graph answers.", "", {"": float(self._link.is_open)}
        if (lag_s := self._follower.lag_s) is not None:
            text = "Time since all that other servers had committed was applied here."
            yield "follow_lag_seconds", text, "", {"": lag_s}

    def _models(self) -> Iterator[Reading]:
        lineup = self._serving.present
        versions = {} if lineup is None else dict.fromkeys(lineup.traffic.versions, 0.0) | {lineup.traffic.active: 1.0}
        yield "model_active", "1 for the model in service, 0 for those on trial.", "model_version", versions
        yield "ready", "Whether ranking calls are answered.", "", {"": float(self._serving.ready)}
        yield "rules_known", "0 where the shop's rules were never read.", "", {"": float(self._rules.known)}

    def _snapshot(self) -> Iterator[Reading]:
        lineup = self._serving.present
        if lineup is not None:
            snapshot = lineup.active.snapshot
            age_s = time.time() - snapshot.as_of_ms / 1000
            yield "snapshot_age_seconds", "Time since the last moment that the snapshot knows.", "", {"": age_s}
            products = len(snapshot.products) - len(snapshot.products.taken_out)
            yield "catalogue_products", "Products that can be ranked.", "", {"": products}

    def _answered(self) -> Iterator[Reading]:
        if (coverage := self._answers.coverage) is not None:
            yield "coverage_ratio", "Share of the catalogue that was in the latest answers.", "", {"": coverage}
        text = "Population stability index of best scores now against those of the training's users."
        yield "score_drift", text, "model_version", self._answers.drift(self._serving.versions())

    def _certificate(self) -> Iterator[Reading]:
        if self._certificate_ends_s is not None:
            try:
                ends_s = self._certificate_ends_s()
            except KgrankError:
                return  # gRPC could read it, and we can't
            yield "certificate_expiry_timestamp_seconds", "When the server's certificate ends.", "", {"": ends_s}
