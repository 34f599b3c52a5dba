"""Paired differences of two methods: same task, pictures, seed; only the method differs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.ablation.methods import L1_WEIGHTS, METHODS, RANKINGS
from examples.ablation.scenes import TASKS

Column = npt.NDArray[np.float64]
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Question = tuple[str, str, str]  # in words, and two keys of METHODS: the first against the second


@dataclass(frozen=True)
class Difference:
    """Of a measure in one setting, first method minus second."""

    mean: float
    half: float  # of the 95 % interval of the mean, by Student's t; nan with one seed

    def __str__(self) -> str:
        return (
            f"{self.mean:+.2f} ± {self.half:.2f}" if self.half == self.half else f"{self.mean:+.2f}"
        )


def questions() -> list[Question]:
    """Return what is compared: FCRC on and off, words with and without, rivals."""
    ranked = [
        (
            f"{name} / none, {weight:g} L1",
            f"numclip-{mode}-{weight:g}",
            f"numclip-plain-{weight:g}",
        )
        for mode, name in RANKINGS.items()
        if mode != "plain"
        for weight in L1_WEIGHTS
    ]
    words = [
        (f"{label}, {RANKINGS[mode]}", f"numclip-{mode}-1{first}", f"numclip-{mode}-1{second}")
        for mode in ("plain", "released")
        for label, first, second in (
            ("words / random words", "", "-random-words"),
            ("words / learned vectors", "", "-random-vectors"),
            ("words / vectors from words", "", "-vectors"),
            ("vectors from words / random", "-vectors", "-random-vectors"),
        )
    ]
    rivals = [
        ("OrdinalCLIP + L1 / OrdinalCLIP", "ordinalclip-l1", "ordinalclip"),
        ("NumCLIP / OrdinalCLIP", "numclip-released-1", "ordinalclip"),
        ("NumCLIP / OrdinalCLIP + L1", "numclip-released-1", "ordinalclip-l1"),
        ("NumCLIP / ridge", "numclip-released-1", "ridge"),
        ("NumCLIP / ridge, then L1", "numclip-released-1", "ridge-l1"),
        ("NumCLIP / zero-shot", "numclip-released-1", "zero-shot"),
        ("NumCLIP, no FCRC: 1 L1 / 0 L1", "numclip-plain-1", "numclip-plain-0"),
    ]
    return [q for q in (*ranked, *words, *rivals) if q[1] in METHODS and q[2] in METHODS]


def settings(report: dict[str, Any]) -> list[tuple[str, int]]:
    """Return tasks and training sets, in the order of all tables."""
    return [(task, shots) for task in TASKS for shots in report["size"]["shots"]]


def column(report: dict[str, Any], task: str, shots: int, method: str, measure: str) -> Column:
    """Return one measure of a method, (seeds,); one that learns nothing has equal numbers."""
    results, seeds = report["results"], range(report["size"]["seeds"])
    keys = [f"{task}/{shots}/{method}/{seed}" for seed in seeds]
    if keys[-1] not in results:  # it was run once
        keys = [f"{task}/{report['size']['shots'][0]}/{method}/0"] * len(seeds)
    return np.array([results[key][measure] for key in keys])


def paired(
    report: dict[str, Any], task: str, shots: int, question: Question, measure: str
) -> Column:
    """Return the differences of a measure, one per seed, first method minus second."""
    first, second = (column(report, task, shots, key, measure) for key in question[1:])
    return first - second


def summarise(differences: Column) -> Difference:
    """Return mean and 95 % interval of differences (seeds,)."""
    count = len(differences)
    if count == 1:
        return Difference(float(differences[0]), math.nan)
    quantile = T_QUANTILES[min(count - 1, len(T_QUANTILES)) - 1]
    return Difference(
        float(differences.mean()), float(quantile * differences.std(ddof=1) / math.sqrt(count))
    )


def sign_test(differences: Column) -> tuple[int, int, float]:
    """Return how many differences are below 0, how many are not 0, and the two-sided p.

    The p is that of so uneven a split or a more uneven one, if either sign were as likely.
    """
    below, count = int((differences < 0).sum()), int((differences != 0).sum())
    few = min(below, count - below)
    tail = sum(math.comb(count, k) for k in range(few + 1)) / 2**count
    return below, count, min(1.0, 2 * tail)
