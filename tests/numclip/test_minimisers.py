"""The probabilities that cost least for an uncertain image: those that the documentation states."""

from __future__ import annotations

import pytest
import torch

from numclip.training.config import RankingMode
from numclip.training.losses import fcrc_image_to_text

EVEN, LOW = (0.2, 0.2, 0.2, 0.2, 0.2), (0.6, 0.3, 0.1, 0.0, 0.0)
CHEAPEST: dict[tuple[RankingMode, tuple[float, ...]], tuple[float, ...]] = {
    ("plain", EVEN): EVEN,
    ("corrected", EVEN): (0.154, 0.218, 0.256, 0.218, 0.154),
    ("released", EVEN): (0.139, 0.210, 0.303, 0.210, 0.139),
    ("plain", LOW): LOW,
    ("corrected", LOW): (0.518, 0.379, 0.103, 0.0, 0.0),
    ("released", LOW): (0.140, 0.698, 0.162, 0.0, 0.0),
}


def cheapest(truth: tuple[float, ...], mode: RankingMode) -> torch.Tensor:
    """Return the bin probabilities of the lowest expected loss over the true bins, (K,)."""
    logits = torch.zeros(len(truth), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=1000, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def expected_loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(
            (
                share * fcrc_image_to_text(logits[None], torch.tensor([k]), mode)
                for k, share in enumerate(truth)
            ),
            start=1e-9 * logits.square().sum(),  # so that impossible bins stay finite
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(expected_loss)  # type: ignore[no-untyped-call]
    return logits.detach().softmax(0)


@pytest.mark.parametrize(("mode", "truth"), CHEAPEST)
def test_only_plain_losses_return_the_truth(mode: RankingMode, truth: tuple[float, ...]) -> None:
    assert cheapest(truth, mode).tolist() == pytest.approx(CHEAPEST[mode, truth], abs=1e-3)
