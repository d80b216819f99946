"""The simulation that docs/scaling.md rests on."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from benchmarks.leasing import Budget, Holder, Server
from benchmarks.scaling import COSTS, USD, Outcome, World, arrivals, shards_for, simulate, weights

SMALL = World(rate=500, seconds=4, shards=5, users=2_000)
ENDING = replace(SMALL, budget=4 * USD)  # Pays for about half of the calls.
LEASED = replace(ENDING, slice=USD // 5)


@pytest.mark.parametrize("world", [ENDING, LEASED, replace(LEASED, shrinking=True), replace(LEASED, processes=15)])
def test_no_more_is_spent_than_the_budget_has(world: World) -> None:
    got = simulate(world)
    assert got.admitted < got.calls
    assert 0 < got.spent <= got.spent + got.left <= 4 * USD


@pytest.mark.parametrize("holders", [1, 5, 15])
@pytest.mark.parametrize("shrinking", [False, True])
def test_less_than_two_slices_of_each_holder_are_parked(holders: int, shrinking: bool) -> None:
    got = simulate(replace(LEASED, processes=holders, budget=None, shrinking=shrinking))
    assert 0 < got.most_parked < 2 * holders * LEASED.slice


def test_nothing_is_parked_or_denied_early_without_leases() -> None:
    got = simulate(ENDING)
    assert got.parked == got.most_parked == 0
    assert got.stranded == 0


def test_larger_slices_ask_less_and_park_more() -> None:
    def all_of(size: int) -> Outcome:
        return simulate(replace(SMALL, slice=size))

    none, small, large = map(all_of, (0, USD // 5, USD))
    assert none.steps > 10 * small.steps > 10 * large.steps
    assert none.parked < small.parked < large.parked


def test_slices_that_shrink_leave_less_when_the_first_call_is_denied() -> None:
    assert simulate(replace(LEASED, shrinking=True)).stranded < simulate(LEASED).stranded / 2


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    assert simulate(LEASED) == simulate(LEASED) != simulate(replace(LEASED, seed=2))


def test_all_money_is_left_parked_or_held_whatever_happens() -> None:
    random = Random(7)
    budget = Budget(1_000, Server(), 0.0)
    holders = [Holder(budget, 50, share) for share in (None, 0.25, 0.1)]
    held: list[tuple[Holder, int]] = []
    spent = 0
    for step in range(10_000):
        if random.random() < 0.5:
            holder, bound = random.choice(holders), random.randint(1, 120)
            if holder.admit(step, bound):
                held.append((holder, bound))
        elif held:
            holder, bound = held.pop(random.randrange(len(held)))
            returned = bound - random.randint(0, 1)
            holder.settle(step, returned)
            spent += bound - returned
        assert budget.left + budget.parked + sum(bound for _, bound in held) + spent == 1_000
        assert budget.parked == sum(holder.free for holder in holders)
        assert min(budget.left, *(holder.free for holder in holders)) >= 0
    assert spent > 900


def test_a_holder_that_got_nothing_does_not_ask_at_each_call() -> None:
    budget = Budget(0, Server(), 0.0)
    holder = Holder(budget, 50)
    assert not any(holder.admit(hundredth / 100, 1) for hundredth in range(100))
    assert 1 < budget.steps < 15


def test_a_server_that_is_asked_for_too_much_lets_wait_ever_longer() -> None:
    idle, busy = Server(), Server()
    for number in range(1_000):
        idle.work(number, 0.5)
        busy.work(number, 1.5)
    assert idle.slow() == 0
    assert busy.slow() == pytest.approx(495, abs=1)


def test_the_busiest_of_the_shards_that_are_counted_is_not_too_busy() -> None:
    world = World(rate=20_000, pair=200e-6, users=2_000)
    count = shards_for(world)
    assert max(weights(replace(world, shards=count))) * world.rate * world.pair <= 0.7
    assert sum(weights(replace(world, shards=count))) == pytest.approx(1)


def test_calls_cost_what_a_days_budget_is_made_of() -> None:
    calls = list(arrivals(replace(SMALL, seconds=40)))
    assert len(calls) == pytest.approx(20_000, rel=0.05)
    assert all(0 <= call.actual <= call.bound for call in calls)
    assert sum(call.actual for call in calls) / len(calls) / USD == pytest.approx(COSTS, rel=0.05)
