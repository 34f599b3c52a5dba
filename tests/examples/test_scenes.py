import numpy as np
import pytest

from examples.ablation.scenes import (
    COLOURS,
    COUNT,
    DAMAGES,
    SEVERITY,
    SHAPES,
    SIDE,
    TASKS,
    caption,
    draw_pictures,
    word,
)
from numclip_runtime import Task


def test_pictures_depend_only_on_the_seed() -> None:
    first, again, other = (draw_pictures(5, seed) for seed in (0, 0, 1))
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, again, strict=True))
    assert [p.count for p in first] == [p.count for p in again]
    assert [p.count for p in first] != [p.count for p in other]


def test_pictures_cover_the_whole_range_and_nothing_else() -> None:
    pictures = draw_pictures(2_000, 0)
    assert {p.count for p in pictures} == set(range(1, 41))
    assert {p.severity for p in pictures} == set(range(51))
    assert all(p.pixels.shape == (SIDE, SIDE, 3) and p.ground != p.colour for p in pictures)
    for task in TASKS.values():
        assert all(task.contains(p.label(task)) for p in pictures)


def test_no_thing_hides_another() -> None:
    """The inked area of an undamaged picture is that of `count` things of one size."""
    for p in draw_pictures(3_000, 0):
        if p.severity > 3:
            continue
        to_colour, to_ground = (
            np.abs(p.pixels.astype(float) - COLOURS[name]).sum(2) for name in (p.colour, p.ground)
        )
        inked = int((to_colour < to_ground).sum()) / p.count
        assert 0.8 <= inked <= 6 * 6, (inked, p)


def test_a_worse_picture_differs_more_from_its_clean_self() -> None:
    """High severity must be visible: neighbouring pixels differ more (noise) or less (blur)."""
    pictures = draw_pictures(3_000, 1)

    def roughness(damage: str, low: int, high: int) -> float:
        chosen = [p for p in pictures if p.damage == damage and low <= p.severity < high]
        return float(
            np.mean([np.abs(np.diff(p.pixels.astype(float), axis=0)).mean() for p in chosen])
        )

    for damage in ("noisy", "spotted"):
        assert roughness(damage, 40, 51) > 1.5 * roughness(damage, 0, 8)
    assert roughness("blurred", 40, 51) < roughness("blurred", 0, 8) / 1.5


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_words_follow_the_bins_and_people_differ_only_near_edges(task: Task) -> None:
    rng = np.random.default_rng(0)
    for index, phrase in enumerate(task.phrases):
        middle = (task.bin_edges[index] + task.bin_edges[index + 1] - 1) / 2
        said = [word(task, middle, rng) for _ in range(200)]
        assert said.count(phrase) > 120
        allowed = task.phrases[max(0, index - 2) : index + 3]
        assert set(said) <= set(allowed)
    at_edge = {word(task, task.bin_edges[2], rng) for _ in range(200)}
    assert {task.phrases[1], task.phrases[2]} <= at_edge


def test_captions_hold_no_number() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(p, rng) for p in draw_pictures(500, 0)]
    assert not any(character.isdigit() for text in texts for character in text)
    assert any(COUNT.phrases[1] in text for text in texts)
    assert any(SEVERITY.phrases[3] in text for text in texts)
    assert any(
        f"{colour} {shape}s" in text for text in texts for colour in COLOURS for shape in SHAPES
    )
    assert any(damage in text for text in texts for damage in DAMAGES)
