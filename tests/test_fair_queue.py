"""The queue of free connections: nobody starves, and nothing is lost."""

import threading
from queue import Empty, Full

import pytest

from app.fair_queue import FairQueue
from tests.conftest import finish, in_threads
from tests.servers import wait_until


def test_who_gives_a_connection_back_does_not_get_it_before_those_who_wait() -> None:
    queue = FairQueue(1)
    queue.put_nowait("connection")
    order: list[str] = []

    def use(who: str) -> None:
        connection = queue.get(timeout=10)
        order.append(who)
        queue.put_nowait(connection)

    held = queue.get()
    waiting = [threading.Thread(target=use, args=(who,)) for who in ("first", "second")]
    for number, thread in enumerate(waiting, start=1):
        thread.start()
        wait_until(lambda number=number: len(queue._waiting) == number, "the thread to wait")  # type: ignore[misc]
    queue.put_nowait(held)
    use("the one who had it")
    finish(*waiting)
    assert order == ["first", "second", "the one who had it"]


def test_who_has_waited_long_enough_gives_up_and_is_forgotten() -> None:
    queue = FairQueue(1)
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    with pytest.raises(Empty):
        queue.get(block=False)
    queue.put_nowait("connection")
    assert queue.get() == "connection"


def test_it_holds_no_more_than_its_size_and_gives_the_last_one_first() -> None:
    queue = FairQueue(2)
    queue.put_nowait(1)
    queue.put_nowait(2)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert [queue.get(), queue.get()] == [2, 1]


def test_no_connection_is_lost_or_doubled_among_threads_that_give_up_now_and_then() -> None:
    queue = FairQueue(2)
    for number in range(2):
        queue.put_nowait(number)
    held: set[int] = set()

    def use(_number: int) -> None:
        for _ in range(300):
            try:
                connection = queue.get(timeout=0.0002)
            except Empty:
                continue
            assert connection not in held
            held.add(connection)
            held.remove(connection)
            queue.put_nowait(connection)

    in_threads(8, use)
    assert sorted((queue.get(block=False), queue.get(block=False))) == [0, 1]
