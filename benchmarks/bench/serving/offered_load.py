"""Load at a multiple of what a server manages: closed loop (clients that wait) and open loop."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.bench.serving.http_client import Answer, Client, raw_request
from benchmarks.bench.serving.server_process import ServerProcess

Loop = Literal["closed", "open"]
LOOK_S = 0.2  # between two looks at the memory
MOST_OPEN = 900  # connections of the open loop


@dataclass(frozen=True)
class LoadRow:
    """What a server did under one load."""

    loop: Loop
    times: float  # of its capacity
    clients: int  # closed: that wait for each other's answers; open: connections at most
    seconds: float
    offered_per_s: float
    accepted_per_s: float  # answered by 200
    p50_ms: float  # of the accepted; open loop: since the request was due
    p99_ms: float
    refused_per_s: float  # answered by 429
    refused_p50_ms: float
    statuses: dict[str, int]
    unsent: int  # open loop: no connection was left
    rss_mib: float  # largest


@dataclass
class _Tally:
    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    unsent: int = 0

    def note(self, answer: Answer | None, seconds: float) -> None:
        self.statuses[str(answer.status) if answer else "no answer"] += 1
        if answer is not None and answer.status == 200:
            self.accepted_s.append(seconds)
        elif answer is not None and answer.status == 429:
            self.refused_s.append(seconds)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share is not above; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


async def closed_loop(
    server: ServerProcess, pictures: Sequence[bytes], *, times: float, clients: int, seconds: float
) -> LoadRow:
    """Let clients ask again as soon as they have an answer; a refused one waits as it is told."""
    tally, end = _Tally(), time.perf_counter() + seconds
    requests = [raw_request(picture) for picture in pictures]

    async def ask_on(number: int) -> None:
        client, at = Client(server.port), number
        while (began := time.perf_counter()) < end:
            tally.sent += 1
            answer = await _asked(client, requests[at % len(requests)])
            tally.note(answer, time.perf_counter() - began)
            at += clients
            if answer is None or answer.status == 429:
                rest = end - time.perf_counter()
                wait_s = answer.retry_after_s if answer else 0.1
                await asyncio.sleep(max(0, min(wait_s, rest)))
        client.close()

    return await _measured(
        server,
        "closed",
        times,
        clients,
        tally,
        lambda: asyncio.gather(*map(ask_on, range(clients))),
    )


async def open_loop(
    server: ServerProcess,
    pictures: Sequence[bytes],
    *,
    times: float,
    rate: float,
    seconds: float,
    seed: int = 0,
) -> LoadRow:
    """Send requests at random moments (Poisson), whatever the server does."""
    tally, chance = _Tally(), random.Random(seed)
    requests = [raw_request(picture) for picture in pictures]
    idle: list[Client] = []
    opened = 0

    async def ask(client: Client, request: bytes, due: float) -> None:
        answer = await _asked(client, request)
        tally.note(answer, time.perf_counter() - due)
        idle.append(client)

    async def send() -> None:
        nonlocal opened
        running, due, end = set(), time.perf_counter(), time.perf_counter() + seconds
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tally.sent += 1
            if not idle:
                if opened == MOST_OPEN:
                    tally.unsent += 1
                    continue
                opened += 1
                idle.append(Client(server.port))
            task = asyncio.create_task(ask(idle.pop(), chance.choice(requests), due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        for client in idle:
            client.close()

    return await _measured(server, "open", times, MOST_OPEN, tally, send)


async def _asked(client: Client, request: bytes) -> Answer | None:
    try:
        return await client.ask(request)
    except (OSError, asyncio.TimeoutError):
        return None


async def _measured(
    server: ServerProcess,
    loop: Loop,
    times: float,
    clients: int,
    tally: _Tally,
    work: Callable[[], Awaitable[object]],
) -> LoadRow:
    most = server.rss_mib()

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, server.rss_mib())
            await asyncio.sleep(LOOK_S)

    looking, began = asyncio.create_task(look()), time.perf_counter()
    await work()
    seconds = time.perf_counter() - began
    looking.cancel()
    return LoadRow(
        loop=loop,
        times=times,
        clients=clients,
        seconds=seconds,
        offered_per_s=tally.sent / seconds,
        accepted_per_s=len(tally.accepted_s) / seconds,
        p50_ms=1000 * percentile(tally.accepted_s, 0.5),
        p99_ms=1000 * percentile(tally.accepted_s, 0.99),
        refused_per_s=len(tally.refused_s) / seconds,
        refused_p50_ms=1000 * percentile(tally.refused_s, 0.5),
        statuses=dict(sorted(tally.statuses.items())),
        unsent=tally.unsent,
        rss_mib=most,
    )
