"""The log of refused calls: a flood of them fills no disk, and none is forgotten."""

import logging
import threading

from structlog.testing import capture_logs

from server.refusals import RefusalLog

LINES = 5
FLOOD = 400


def refuse(log: RefusalLog, times: int = 1) -> None:
    for _ in range(times):
        log.refused(method="Recommend", reason="OVERLOADED", request_id="r")


def test_a_flood_gets_so_many_lines_a_second_and_the_rest_is_counted() -> None:
    now_s = 100.0
    log = RefusalLog(LINES, lambda: now_s)
    with capture_logs() as logged:
        callers = [threading.Thread(target=refuse, args=(log, FLOOD // 4)) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        now_s += 1
        refuse(log)
    *of_the_flood, later = [line.get("left_out_before", 0) for line in logged if line["event"] == "call_refused"]
    assert of_the_flood == [0] * LINES
    assert later == FLOOD - LINES


def test_a_log_says_what_it_is_of_and_how_bad_that_is() -> None:
    with capture_logs() as logged:
        RefusalLog(LINES, event="denied", level=logging.WARNING).refused(caller="reader")
    assert logged == [{"event": "denied", "log_level": "warning", "caller": "reader"}]


def test_only_where_there_is_no_room_is_a_refusal_left_out() -> None:
    assert RefusalLog(lines_per_s=0).left_out()
    assert not RefusalLog(lines_per_s=LINES).left_out()
