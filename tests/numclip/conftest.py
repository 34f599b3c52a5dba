"""Fixtures: one thread (tiny models gain nothing from more) and the same random numbers always."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
