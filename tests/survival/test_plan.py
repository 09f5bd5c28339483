"""The same seed plans the same run."""

from itertools import islice

import pytest

from survival.plan import ON_CLUSTERS, WEIGHTS, plan
from survival.workload import DOORS, KINDS, orders


def test_the_same_seed_asks_for_the_same_jobs_and_faults() -> None:
    first, again, other = (list(islice(orders(seed, "p", 4), 500)) for seed in (7, 7, 8))
    assert first == again != other
    plans = [plan(seed, seconds=60, faults=40, ack_wait=4, nodes=3) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


def test_all_ways_to_submit_and_all_kinds_of_jobs_come_up() -> None:
    drawn = [order for some in islice(orders(1, "p", 4), 5000) for order in some]
    assert {order.door for order in drawn} == set(DOORS)
    assert {order.kind for order in drawn} == set(KINDS)
    assert len({order.uid for order in drawn}) == len(drawn)


@pytest.mark.parametrize(("nodes", "kinds"), [(1, set(WEIGHTS)), (3, {*WEIGHTS, *ON_CLUSTERS})])
def test_a_plan_has_so_many_faults_in_its_time_and_of_every_kind_that_there_is_room_for(
    nodes: int, kinds: set[str]
) -> None:
    faults = plan(1, seconds=100, faults=60, ack_wait=4, nodes=nodes)
    assert len(faults) == 60
    assert {fault.kind for fault in faults} == kinds
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[-1].at < 100
    assert len({fault.kind for fault in plan(1, seconds=20, faults=9, ack_wait=4, nodes=nodes)}) == 9
    frozen = [
        fault.seconds for fault in faults if fault.kind.endswith(".freeze") and not fault.kind.startswith("server")
    ]
    assert min(frozen) > 4
