"""Hours of mixed load: what a server takes by the minute, and whether that stays flat."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.bench.serving.http_client import (
    Client,
    form_request,
    get_request,
    raw_request,
)
from benchmarks.bench.serving.offered_load import percentile
from benchmarks.bench.serving.server_process import ServerProcess

# Of the second quarter of the time, the first being warm-up, the last quarter may differ by so much
MOST_RSS = 0.03  # share
MOST_DESCRIPTORS = 2
MOST_LATENCY = 0.25  # share of the median; other work on the machine moves it more than p99 allows


@dataclass(frozen=True)
class Minute:
    """A server in one minute of a soak."""

    minute: int  # from 1
    requests: int
    accepted: int
    p50_ms: float  # of raw pictures that were accepted
    p99_ms: float
    statuses: dict[str, int]
    rss_mib: float
    descriptors: int
    threads: int
    cpu_share: float  # of one core


@dataclass(frozen=True)
class Verdict:
    """Whether a soak was flat: each is (second quarter, last quarter)."""

    rss_mib: tuple[float, float]  # means
    descriptors: tuple[int, int]  # largest
    p50_ms: tuple[float, float]  # medians
    faults: int  # answers of 500, and none at all
    flat: bool


def verdict(minutes: Sequence[Minute]) -> Verdict:
    """Judge a soak by the rule of `MOST_RSS`, `MOST_DESCRIPTORS` and `MOST_LATENCY`, and no fault.

    Args:
        minutes: At least 4.
    """
    quarter = len(minutes) // 4
    second, last = minutes[quarter : 2 * quarter], minutes[-quarter:]

    def pair(of: Callable[[Sequence[Minute]], float]) -> tuple[float, float]:
        return of(second), of(last)

    rss = pair(lambda part: statistics.mean(minute.rss_mib for minute in part))
    files = max(m.descriptors for m in second), max(m.descriptors for m in last)
    p50 = pair(lambda part: statistics.median(minute.p50_ms for minute in part))
    faults = sum(m.statuses.get("500", 0) + m.statuses.get("no answer", 0) for m in minutes)
    flat = (
        rss[1] <= rss[0] * (1 + MOST_RSS)
        and files[1] <= files[0] + MOST_DESCRIPTORS
        and p50[1] <= p50[0] * (1 + MOST_LATENCY)
        and faults == 0
    )
    return Verdict(rss, files, p50, faults, flat)


async def soak(
    server: ServerProcess,
    pictures: Sequence[bytes],
    *,
    rate: float,
    minutes: int,
    told: Callable[[Minute], object],
    seed: int = 0,
    minute_s: float = 60.0,
) -> list[Minute]:
    """Send mixed requests at random moments for some minutes.

    Args:
        server: Under load.
        pictures: That can be read.
        rate: Requests per second.
        minutes: How long.
        told: Called after each minute.
        seed: Of the mixture.
        minute_s: Length of a minute, for tests.
    """
    chance, found = random.Random(seed), []
    for number in range(1, minutes + 1):
        tally: Counter[str] = Counter()
        accepted_s: list[float] = []
        cpu_s, began = server.cpu_s(), time.perf_counter()
        due, end, running = began, began + minute_s, set()
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            task = asyncio.create_task(_one(server.port, pictures, chance, tally, accepted_s))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        await asyncio.sleep(max(0, end - time.perf_counter()))
        found.append(
            Minute(
                number,
                sum(tally.values()),
                len(accepted_s),
                1000 * percentile(accepted_s, 0.5),
                1000 * percentile(accepted_s, 0.99),
                dict(sorted(tally.items())),
                server.rss_mib(),
                server.descriptors(),
                server.threads(),
                (server.cpu_s() - cpu_s) / (time.perf_counter() - began),
            )
        )
        told(found[-1])
    return found


async def _one(
    port: int,
    pictures: Sequence[bytes],
    chance: random.Random,
    tally: Counter[str],
    accepted_s: list[float],
) -> None:
    """Send one request of the mixture."""
    client, picture = Client(port), chance.choice(pictures)
    kind = chance.random()
    try:
        if kind < 0.10:  # hangs up in the middle of the body, or while it waits
            request = raw_request(picture)
            cut = chance.choice((len(request), len(request) // 2, 40))
            await client.send_part(request[:cut], chance.random() * 0.05)
            tally["hung up"] += 1
            return
        if kind < 0.20:
            request = form_request(chance.choices(pictures, k=3))
        elif kind < 0.28:
            request = raw_request(picture[: len(picture) // 2])  # broken
        elif kind < 0.34:
            request = raw_request(b"no picture " * 20)
        elif kind < 0.38:
            request = form_request(pictures[:2])[:-30] + b" " * 30  # without its last boundary
        elif kind < 0.42:
            request = b"NO HTTP AT ALL\r\n\r\n"
        elif kind < 0.50:
            request = get_request(chance.choice(("/healthz", "/metrics", "/model", "/", "/none")))
        else:
            request = raw_request(picture, chunked=kind < 0.6)
        began = time.perf_counter()
        answer = await client.ask(request)
        tally[str(answer.status)] += 1
        if kind >= 0.50 and answer.status == 200:
            accepted_s.append(time.perf_counter() - began)
    except (OSError, asyncio.TimeoutError):
        tally["no answer"] += 1
    finally:
        client.close()
