"""A daemon that starts after a crash: the predecessor's open batch is settled before its rules are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from netns import Namespace

from dataplane import rules
from dataplane.counters import CounterFile, Settled
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.startup import prepare

LOOPBACK = QueueRule(family=4, chain=Chain.OUTPUT, interface="lo", queue=8)
FIRST = DesiredState(owner="start", queues=(LOOPBACK,))
SECOND = DesiredState(
    owner="start", queues=(LOOPBACK, QueueRule(family=4, chain=Chain.PREROUTING, interface="lo", queue=8))
)
ACCEPTED = """*mangle
:start-COUT - [0:0]
-A start-COUT ! -d 224.0.0.0/4 -o lo -m mark ! --mark 0x20000000/0x20000000
[{count}:0] -A start-COUT ! -d 224.0.0.0/4 -o lo -m mark --mark 0x20000000/0x20000000 -j MARK --set-xmark 0x0/0x20000000
COMMIT
"""


@pytest.mark.netns
@pytest.mark.parametrize(("kernel", "settled", "value"), [(5, Settled.DISCARDED, 50), (8, Settled.APPLIED, 80)])
def test_the_old_rules_settle_the_batch_before_new_ones_count_from_zero(
    tmp_path: Path, kernel: int, settled: Settled, value: int
) -> None:
    record, path = tmp_path / "record", tmp_path / "counters"
    with Namespace() as namespace:
        namespace.call(lambda: prepare(FIRST, record_path=record, counters_path=path))
        crashed = CounterFile.open(path)
        money = crashed.index("money")
        for accepts in (5, 3):
            crashed.add(money, 10 * accepts)
            crashed.begin(accepts)
            if accepts == 5:
                crashed.commit()
        crashed.close()
        namespace.run("iptables-restore", "--noflush", "--counters", text=ACCEPTED.format(count=kernel))
        assert namespace.call(lambda: rules.read_kernel_accepts("start")) == kernel
        recovery = namespace.call(lambda: prepare(SECOND, record_path=record, counters_path=path))
        assert (recovery.settled, recovery.unexplained_accepts) == (settled, 0)
        assert namespace.call(lambda: rules.read_kernel_accepts("start")) == 0
        again = CounterFile.open(path)
        assert again.value(again.index("money")) == value
        again.begin(4)  # nothing of it goes out
        again.close()
        recovery = namespace.call(lambda: prepare(SECOND, record_path=record, counters_path=path))
        assert recovery.settled is Settled.DISCARDED
