"""Searches that other servers took, and this one before it was started, from the graph.

A search is not a `Change`: nobody has to hear of it at once, and there are many. Each commit that has some is found by
its number, through the index of the schema.
"""

from typing import TYPE_CHECKING

from kg.whole_rows import whole_rows
from server.graph_link import GraphLink
from server.past_searches import PastSearch, PastSearches

if TYPE_CHECKING:
    from kg.store import Graph

_MOST = 100_000
_READ = """
MATCH (u:User)-[s:SEARCHED]->(q:Query) WHERE s.commit > $after AND s.commit <= $until
WITH u, s, q ORDER BY s.commit DESC LIMIT $most
RETURN u.id, q.text, s.at
"""


class SearchesFollowing:
    """Reads searches of new commits into memory.

    Args:
        link: the graph.
        past: the memory.
    """

    def __init__(self, link: "GraphLink[Graph]", past: PastSearches) -> None:
        self._link = link
        self._past = past
        self._applied = 0

    async def follow(self, until: int) -> None:
        """Take the searches of commits up to one, the latest of them where there are very many; 0: begin anew.

        Below what has been taken there is nothing to take: the follower goes back for what others hold.

        Raises:
            KgrankError: the graph is away or failed; nothing was taken.
        """
        if until == 0:  # the graph is another one
            self._applied = 0
        if until <= self._applied:
            return
        after = self._applied
        with self._past.forgotten() as forgotten:
            rows = await self._link.follow(
                lambda graph: whole_rows(lambda: graph.read(_READ, after=after, until=until, most=_MOST), range(3))
            )
            of_user: dict[str, list[PastSearch]] = {}
            for user_id, query, at_ms in rows:
                of_user.setdefault(user_id, []).append(PastSearch(query, at_ms))
            for user_id in of_user.keys() - forgotten:  # erased since it was read
                self._past.note(user_id, of_user[user_id])
        self._applied = until
