"""Fixtures: one thread, the same random numbers always, and the chains."""

from __future__ import annotations

import pytest
import torch

from tests.export.chain import Chain, make_chain
from tests.numclip.tiny import TOWERS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=list(TOWERS))
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Return the exported model of each tower."""
    return make_chain(request.param, tmp_path_factory.mktemp(request.param))
