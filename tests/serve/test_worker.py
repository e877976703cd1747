"""The thread that runs the engine: sharing it, stopping it, starting it again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from openglm.infill.infiller import Infiller
from openglm.serve.errors import Stopped
from openglm.serve.service import updates
from openglm.serve.worker import Ticket, Worker

LONG = {"max_new_tokens": 60, "min_new_tokens": 60}


def working(infiller: Infiller, between_steps: bool, use: Callable[[Worker], Awaitable[None]]) -> None:
    async def run() -> None:
        worker = Worker(infiller.engine, between_steps=between_steps)
        for _ in range(2):  # it can be started again
            worker.start()
            try:
                await asyncio.wait_for(use(worker), 30)
            finally:
                await worker.stop()
            assert not worker.alive
        assert infiller.engine.running == infiller.engine.queued == infiller.engine.runner.num_held == 0

    asyncio.run(run())


def ticket(infiller: Infiller, **options: int) -> Ticket:
    return Ticket(infiller.request("the [MASK] bridge", **options), updates())


@pytest.mark.parametrize("between_steps", [False, True])
def test_scoring_does_not_wait_for_fills_to_end(infiller: Infiller, between_steps: bool) -> None:
    async def use(worker: Worker) -> None:
        filling = ticket(infiller, **LONG)
        worker.submit(filling)
        name = await worker.score(lambda: threading.current_thread().name, 1)
        assert name.startswith("openglm-engine" if between_steps else "openglm-score")
        assert not filling.over
        assert await filling.updates.get() == (filling, None)
        with pytest.raises(ZeroDivisionError):
            await worker.score(lambda: 1 / 0, 1)

    working(infiller, between_steps, use)


def test_stopping_gives_up_what_is_left(infiller: Infiller) -> None:
    async def use(worker: Worker) -> None:
        filling = ticket(infiller, **LONG)
        worker.submit(filling)
        slow = asyncio.ensure_future(worker.score(lambda: time.sleep(0.1), 1))
        waiting = asyncio.ensure_future(worker.score(lambda: 1, 1))
        while not infiller.engine.running:
            await asyncio.sleep(0)
        stopped = asyncio.ensure_future(worker.stop())
        assert await filling.updates.get() == (filling, None)
        assert isinstance(filling.error, Stopped)
        await slow
        await stopped
        with pytest.raises(Stopped):
            await waiting

    working(infiller, True, use)


def test_what_is_cancelled_is_over_at_once(infiller: Infiller) -> None:
    async def use(worker: Worker) -> None:
        first, second = ticket(infiller, **LONG), ticket(infiller, max_new_tokens=2)
        for each in (first, second):
            worker.submit(each)
        worker.cancel(first)
        assert await first.updates.get() == (first, None)
        assert await second.updates.get() == (second, None)
        assert second.request.result().text == infiller.fill("the [MASK] bridge", max_new_tokens=2).text
        worker.cancel(second)  # too late: nothing happens

    working(infiller, False, use)
