"""Whatever bytes come: 4xx, never 5xx, and the next client is served."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.serve.conftest import Running, ask, picture, running, send_raw
from tests.serve.malformed import corpus

CORPUS = corpus()
WHOLE = bool(os.environ.get("NUMCLIP_SERVE_TEST"))  # `make serve-test`
CHOSEN = CORPUS if WHOLE else CORPUS[:: len(CORPUS) // 60]


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    with running(read_timeout=2.0) as started:
        yield started


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 500
    assert len(CHOSEN) >= 60
    assert len({data for _, data in CORPUS}) >= 500


def test_each_is_refused_and_the_server_lives(patient: Running) -> None:
    statuses: Counter[int] = Counter()
    wrong = []
    for name, data in CHOSEN:
        found = send_raw(patient.port, data)
        statuses[found.status] += 1
        refused = 400 <= found.status < 500 and isinstance(found.json["error"], str)
        if not refused:
            wrong.append((name, found.status, found.body[:200]))
    assert wrong == []
    assert len(statuses) >= 6, statuses
    if WHOLE:
        print(f"\n{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert ask(patient.port, body=picture()).status == 200
    line = patient.app.line
    assert (line.waiting, line.running, patient.app._buffer.used) == (0, 0, 0)
    page = ask(patient.port, "/metrics").body.decode()
    assert 'status="500"' not in page
