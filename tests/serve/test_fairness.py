"""Many long requests do not make a short one wait for all of them."""

from __future__ import annotations

import asyncio

import httpx

from .conftest import Live

LONG = {"text": "the [MASK] bridge", "max_new_tokens": 33, "min_new_tokens": 33, "temperature": 1.0, "seed": 1}
SHORT = {"text": "the [MASK] bridge", "max_new_tokens": 2}


def test_a_short_fill_is_done_before_most_of_the_long_ones(live: Live) -> None:
    async def both() -> tuple[int, httpx.Response, list[httpx.Response]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=live.url, timeout=120, limits=limits) as client:
            long = [
                asyncio.ensure_future(client.post("/v1/fill", json={**LONG, "num_return_sequences": 16}))
                for _ in range(24)
            ]
            while live.service.worker.waiting < 10:
                await asyncio.sleep(0.005)
            short = await client.post("/v1/fill", json=SHORT)
            done = sum(each.done() for each in long)
            return done, short, await asyncio.gather(*long)

    done, short, long = asyncio.run(both())
    assert short.status_code == 200
    assert [answer.status_code for answer in long] == [200] * 24
    assert len({answer.json()["text"] for answer in long}) == 1  # the same seed, whatever ran beside it
    assert done <= 12  # those that had begun; in the order of arrival it would have been all 24
    live.settles()
