"""Fair turns between hosts."""

import asyncio
from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.data.fetch.turns import Task, Turns, host_of


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 3), st.integers(1, 8), st.randoms())
def test_every_task_once_and_never_too_many_of_a_host(hosts, per_host, workers, random):
    async def run():
        turns, seen, busy, most = Turns(per_host), [], Counter(), Counter()
        tried = Counter()

        async def work():
            while (task := await turns.take()) is not None:
                busy[task.host] += 1
                most[task.host] = max(most[task.host], busy[task.host])
                await asyncio.sleep(0)
                busy[task.host] -= 1
                tried[task.url] += 1
                if tried[task.url] == 1 and random.random() < 0.3:
                    turns.again(task, 0.0, rest=random.random() < 0.5)
                    continue
                seen.append(task.url)
                turns.done(task)
                if turns.open == 0:
                    turns.close()

        for number, host in enumerate(hosts):
            turns.put(Task(f"http://h{host}/{number}"))
        if not hosts:
            turns.close()
        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(workers))), 10)
        return seen, most

    seen, most = asyncio.run(run())
    assert sorted(seen) == sorted(f"http://h{host}/{number}" for number, host in enumerate(hosts))
    assert all(count <= per_host for count in most.values())


def test_a_slow_host_holds_nobody_up():
    async def run():
        turns = Turns(per_host=1)
        for number in range(5):
            turns.put(Task(f"http://slow/{number}"))
        turns.put(Task("http://quick/0"))
        first = await turns.take()
        second = await asyncio.wait_for(turns.take(), 1)
        return first.host, second.host

    assert asyncio.run(run()) == ("slow", "quick")


def test_a_resting_host_is_left_alone():
    async def run():
        turns = Turns(per_host=4)
        for number in range(3):
            turns.put(Task(f"http://h/{number}"))
        task = await turns.take()
        turns.again(task, 0.05, rest=True)
        waiting = asyncio.ensure_future(turns.take())
        await asyncio.sleep(0.01)
        early = waiting.done()
        order = deque([await waiting])
        order.extend([await turns.take(), await turns.take()])
        return early, {task.url for task in order}

    early, urls = asyncio.run(run())
    assert not early and len(urls) == 3


def test_host_of():
    assert host_of("HTTP://Example.COM:80/a") == "example.com"
    assert host_of("http://[bad") == "http://[bad"
