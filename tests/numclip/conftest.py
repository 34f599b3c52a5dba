"""Fixtures: one thread (tiny models gain nothing from more) and the same random numbers always."""

import pytest
import torch

from tests.numclip.released_files import State, base_state

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base() -> State:
    return base_state()


@pytest.fixture(scope="module")
def base_file(base: State, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("base") / "base.pt"
    torch.save(base, path)
    return str(path)
