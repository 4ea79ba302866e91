"""The log of refused calls: a flood of them fills no disk, and none is forgotten."""

import threading

from structlog.testing import capture_logs

from server.refusals import RefusalLog
from tests.waiting import until

LINES = 5
FLOOD = 400


def refuse(log: RefusalLog, times: int = 1) -> None:
    for _ in range(times):
        log.refused(method="Recommend", reason="OVERLOADED", request_id="r")


def test_a_flood_gets_so_many_lines_a_second_and_the_rest_is_counted() -> None:
    log = RefusalLog(lines_per_s=LINES)
    with capture_logs() as lines:
        callers = [threading.Thread(target=refuse, args=(log, FLOOD // 4)) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        of_the_flood = len(lines)
        asked = FLOOD

        def told_of_all() -> bool:
            nonlocal asked
            asked += 1
            refuse(log)
            return len(lines) > of_the_flood

        until(told_of_all)
    assert LINES <= of_the_flood <= 2 * LINES  # a second may have ended meanwhile
    assert len(lines) + sum(line.get("left_out_before", 0) for line in lines) == asked


def test_only_where_there_is_no_room_is_a_refusal_left_out() -> None:
    assert RefusalLog(lines_per_s=0).left_out()
    assert not RefusalLog(lines_per_s=LINES).left_out()
