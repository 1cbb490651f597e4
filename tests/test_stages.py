"""Reading ahead, work, finishing behind: order, errors, and how much is held."""

from __future__ import annotations

import threading
import time

import pytest

from tag2mask.base.stages import Stages


def doubled(group):
    return [2 * value for _, value in group]


def told(outcome):
    return outcome.item, outcome.result if outcome.error is None else type(outcome.error)


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outcomes_come_in_the_order_of_the_items_whatever_takes_long(jobs, batch):
    def read(item):
        time.sleep(0.002 * (item % 3))
        return item + 100

    def finish(item, value, result):
        time.sleep(0.002 * (item % 4))
        return item, value, result

    stages = Stages(read=read, work=doubled, finish=finish, kind=lambda value: value % 2, batch=batch, jobs=jobs)
    found = [outcome.get() for outcome in stages.run(range(23))]
    assert found == [(i, i + 100, 2 * (i + 100)) for i in range(23)]
    assert list(stages.run([])) == []


def test_only_things_of_one_kind_are_worked_on_together_and_batches_are_filled():
    groups = []

    def work(group):
        groups.append([item for item, _ in group])
        return doubled(group)

    stages = Stages(
        read=lambda item: item, work=work, finish=lambda *each: each[-1], kind=lambda value: value % 2, batch=4
    )
    assert [outcome.get() for outcome in stages.run(range(16))] == [2 * i for i in range(16)]
    assert groups == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]


@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_is_the_outcome_of_its_item_alone(batch):
    def read(item):
        if item == 2:
            raise OSError("read")
        return item

    def work(group):
        if any(item == 5 for item, _ in group):
            raise ValueError("work")
        return doubled(group)

    def finish(item, value, result):
        if item == 7:
            raise MemoryError("finish")
        return result

    stages = Stages(read=read, work=work, finish=finish, batch=batch, jobs=2)
    outcomes = list(stages.run(range(9)))
    wrong = {2: OSError, 5: ValueError, 7: MemoryError}
    assert [told(each) for each in outcomes] == [(i, wrong.get(i, 2 * i)) for i in range(9)]
    with pytest.raises(ValueError, match="work"):
        outcomes[5].get()


def test_items_are_asked_for_as_they_are_needed_and_a_reader_that_leaves_stops_it():
    taken = []

    def items():
        for i in range(10_000):
            taken.append(i)
            yield i

    stages = Stages(read=lambda item: item, work=doubled, finish=lambda *each: each[-1], jobs=2)
    run = stages.run(items())
    assert next(run).get() == 0
    run.close()
    assert len(taken) <= 8


def test_a_keyboard_interrupt_ends_it_and_what_has_not_begun_never_does():
    begun = []

    def work(group):
        if group[0][0] == 1:
            raise KeyboardInterrupt
        return doubled(group)

    def read(item):
        begun.append(item)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(Stages(read=read, work=work, finish=lambda *each: each[-1], jobs=1).run(range(1000)))
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count < 10


def test_no_more_than_the_budget_is_held_but_one_that_is_larger_alone():
    held, most, lock = 0, 0, threading.Lock()
    costs = [3, 3, 3, 50, 3, 8, 3, 3]

    def read(item):
        nonlocal held, most
        with lock:
            held += costs[item]
            most = max(most, held if costs[item] < 50 else 0)
            assert costs[item] < 50 or held == 50
        return item

    stages = Stages(read=read, work=doubled, finish=lambda *each: each[-1], cost=costs.__getitem__, budget=10, jobs=3)
    for i, outcome in enumerate(stages.run(range(len(costs)))):
        assert outcome.get() == 2 * i
        with lock:
            held -= costs[i]
    assert most <= 10


def test_work_is_done_in_the_callers_thread_and_goes_on_while_others_finish():
    threads, finishing, overlapped = set(), threading.Event(), threading.Event()

    def work(group):
        threads.add(threading.get_ident())
        if group[0][0] == 1 and finishing.wait(5):
            overlapped.set()
        return doubled(group)

    def finish(item, value, result):
        if item == 0:
            finishing.set()
            assert overlapped.wait(5)
        return result

    list(Stages(read=lambda item: item, work=work, finish=finish, jobs=2).run(range(3)))
    assert threads == {threading.get_ident()}
    assert overlapped.is_set()


def test_what_was_finished_when_somebody_leaves_is_not_lost():
    written = []

    def finish(item, value, result):
        written.append(item)
        return result

    run = Stages(read=lambda item: item, work=doubled, finish=finish, batch=2, jobs=2).run(iter(range(1000)))
    taken = [next(run).item for _ in range(3)]
    left = run.close()
    assert taken + [outcome.item for outcome in left] == sorted(written)
    assert all(outcome.get() == 2 * outcome.item for outcome in left)
    assert len(written) < 12
    assert run.close() == []
