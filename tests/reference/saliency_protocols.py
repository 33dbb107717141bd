"""The protocols that soft maps are scored in, pixel by pixel and threshold by threshold, in Python's own floats.

Maps are rows of levels 0 to 255, true masks rows of booleans. Every true mask has a foreground.
"""

from collections.abc import Callable, Sequence

Levels = Sequence[Sequence[int]]
Truth = Sequence[Sequence[bool]]
Case = tuple[Levels, Truth]


def counts(levels: Levels, truth: Truth, is_on: Callable[[float], bool]) -> tuple[int, int, int, int]:
    """Pixels found rightly, found wrongly, missed, and left out rightly."""
    right = wrong = missed = left_out = 0
    for level_row, truth_row in zip(levels, truth, strict=True):
        for level, is_true in zip(level_row, truth_row, strict=True):
            found = is_on(level)
            right += found and is_true
            wrong += found and not is_true
            missed += (not found) and is_true
            left_out += (not found) and not is_true
    return right, wrong, missed, left_out


def f_measure(right: int, wrong: int, missed: int, beta_squared: float) -> float:
    """F of one cut; 0 where nothing is found rightly, whatever a protocol says of an empty prediction's precision."""
    if right == 0:
        return 0.0
    precision, recall = right / (right + wrong), right / (right + missed)
    return (1 + beta_squared) * precision * recall / (beta_squared * precision + recall)


def f_at_cuts(case: Case, beta_squared: float) -> list[float]:
    """F of `map > k / 255`, k = 0 to 254."""
    return [
        f_measure(*counts(*case, lambda level, k=k: level / 255 > k / 255)[:3], beta_squared)  # type: ignore[misc]
        for k in range(255)
    ]


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def tokencut_max_f(cases: Sequence[Case], beta_squared: float = 0.3) -> float:
    """F per image at each cut, mean over the images, the best cut of all."""
    curves = [f_at_cuts(case, beta_squared) for case in cases]
    return max(mean([curve[cut] for curve in curves]) for cut in range(255))


def found_max_f(cases: Sequence[Case]) -> float:
    """The best cut of every image, mean over the images; beta^2 = 0.3 squared once more."""
    return mean([max(f_at_cuts(case, 0.09)) for case in cases])


def iou(cases: Sequence[Case]) -> float:
    """Of `map > 0.5` with the true mask, mean over the images."""
    found = [counts(*case, lambda level: level / 255 > 0.5) for case in cases]
    return mean([right / (right + wrong + missed) for right, wrong, missed, _ in found])


def accuracy(cases: Sequence[Case]) -> float:
    """Share of the pixels of `map > 0.5` that are right, mean over the images."""
    found = [counts(*case, lambda level: level / 255 > 0.5) for case in cases]
    return mean(
        [(right + left_out) / sum((right, wrong, missed, left_out)) for right, wrong, missed, left_out in found]
    )


def a2s(cases: Sequence[Case]) -> tuple[float, float]:
    """F at twice the mean, and mean absolute error, of maps stretched to 0 to 1; means over the images."""
    scores, errors = [], []
    for levels, truth in cases:
        flat = [level for row in levels for level in row]
        low, high = min(flat), max(flat)
        stretched = [[(level - low) / (high - low) for level in row] for row in levels]
        cut = min(1.0, 2 * mean([value for row in stretched for value in row]))
        scores.append(f_measure(*counts(stretched, truth, lambda value, cut=cut: value >= cut)[:3], 0.3))  # type: ignore[misc]
        pairs = [pair for rows in zip(stretched, truth, strict=True) for pair in zip(*rows, strict=True)]
        errors.append(mean([abs(value - is_true) for value, is_true in pairs]))
    return mean(scores), mean(errors)
