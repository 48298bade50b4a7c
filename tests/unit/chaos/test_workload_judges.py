"""What each workload's judges make of a small history: ok as it is, a violation with one line changed."""

from __future__ import annotations

import pytest

from chaos.checkers.verdict import Verdict, worst
from chaos.history import Header, History
from chaos.workloads.catalogue import CATALOGUE
from tests.unit.chaos.tables import history

LOCKS = """
a 0-1 acquire exclusive -> 5
a 2-3 store [5,true] -> true
a 4-5 guarded [5] -> true
a 6-7 release [5,"exclusive",1,6] -> true
b 10-11 acquire exclusive -> 9
b 12-13 store [9,true] -> true
b 14-15 guarded [9] -> true
b 16-17 release [9,"exclusive",11,16] -> true
"""
SHARED = """
a 0-1 acquire shared -> 5
b 2-3 acquire shared -> 7
a 6-9 release [5,"shared",1,6] -> true
b 7-9 release [7,"shared",3,7] -> true
c 10-11 acquire exclusive -> 9
c 12-13 release [9,"exclusive",11,12] -> true
"""
REGISTERS = "a 0-1 write 1\nb 2-3 read -> 1\nc 4-5 cas [1,2] -> true\nb 6-7 read -> 2"
LISTS = """
a 0-1 txn [["append","x",1]] -> [["append","x",1]]
b 2-3 txn [["r","x",null]] -> [["r","x",[1]]]
"""
REST = '"3":100,"4":100,"5":100,"6":100'
BOOKS = '"3":[0,0,0,100],"4":[0,0,0,100],"5":[0,0,0,100],"6":[0,0,0,100]'
BANK = f"""
a 0-1 transfer[1048576] ["1","2",30] -> true
a 2-3 transfer[1048577] ["1","2",90] -> false
b 4-5 read[bank] -> {{"1":70,"2":130,{REST}}}
n 4-5 glance[bank] -> {{"1":100,"2":100,{REST}}}
final 6-7 final_transfers[bank] -> {{"1048576":1}}
final 8-9 final_books[bank] -> {{"1":[0,30,0,100],"2":[0,0,0,130],{BOOKS},"1000":[0,600,0,0]}}
"""
TWO_PHASE = """
a 0-1 pend[7] 9 -> created
a 2-3 post[7] 9 -> created
b 4-5 void[7] -> pending_transfer_already_posted
final 6-7 final_books[books] -> {"1":[0,9,0,0],"2":[0,0,0,9]}
"""
SESSIONS = """
a 0-1 open -> 100
a 2-3 acquire -> 5
a 4-5 keepalive -> null
a 20- ~expire
b 6-7 open -> 101
b 8-25 acquire -> 9
b 26-27 keepalive -> null
b 90- ~expire
final 99-100 left -> 0
"""

CASES = [
    ("lock", LOCKS, "b 10-11 acquire exclusive -> 9", "b 4-5 acquire exclusive -> 9"),
    ("lock", LOCKS, "b 10-11 acquire exclusive -> 9", "b 10-11 acquire exclusive -> 4"),
    ("lock", LOCKS, "a 4-5 guarded [5] -> true", "a 4-5 guarded [5] -> false"),
    ("lock", LOCKS, "b 12-13 store [9,true] -> true", "b 12-13 store [9,true] -> false"),
    ("rw-lock", SHARED, "c 10-11 acquire exclusive -> 9", "c 4-5 acquire exclusive -> 9"),
    ("register", REGISTERS, "b 6-7 read -> 2", "b 6-7 read -> 1"),
    ("list-append", LISTS, '[["r","x",[1]]]', '[["r","x",[]]]'),
    ("bank", BANK, '"1":70,', '"1":71,'),
    ("bank", BANK, '"1":[0,30,', '"1":[0,60,'),
    ("bank", BANK, '{"1048576":1}', '{"1048576":1,"1048577":1}'),
    ("bank", BANK, 'glance[bank] -> {"1":100', 'glance[bank] -> {"1":101'),
    ("bank", BANK, '["1","2",90] -> false', '["1","2",90] -> overflows_debits'),
    ("two-phase", TWO_PHASE, "already_posted", "already_voided"),
    ("two-phase", TWO_PHASE, '"1":[0,9', '"1":[9,9'),
    ("two-phase", TWO_PHASE, '"1":[0,9,0,0],"2":[0,0,0,9]', '"1":[0,18,0,0],"2":[0,0,0,18]'),
    ("session", SESSIONS, "b 8-25 acquire -> 9", "b 8-19 acquire -> 9"),
    ("session", SESSIONS, "left -> 0", "left -> 1"),
]


def judged(workload: str, text: str) -> Verdict:
    """The verdict of the workload's own judges, but for whether enough was tried."""
    run = History(Header(workload), tuple(history(text)))
    return worst(j.verdict for j in CATALOGUE[workload].judge(run) if j.checker != "enough")


@pytest.mark.parametrize(("workload", "text", "line", "other"), CASES)
def test_one_wrong_line_is_a_violation(workload: str, text: str, line: str, other: str) -> None:
    """The history is ok as written, and a violation with one answer changed."""
    assert line in text
    assert judged(workload, text) is Verdict.OK
    assert judged(workload, text.replace(line, other)) is Verdict.VIOLATION


@pytest.mark.parametrize("workload", sorted(CATALOGUE))
def test_an_empty_run_is_not_ok(workload: str) -> None:
    """A run in which nothing succeeded is unknown, whatever the workload."""
    assert worst(j.verdict for j in CATALOGUE[workload].judge(History(Header(workload), ()))) is Verdict.UNKNOWN
