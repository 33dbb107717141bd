"""What an evaluation returns: numbers, what they mean, and what was wrong with the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backdrop.errors import UserError

MAX_NAMED = 5
MAX_CORRUPT = 20


@dataclass(kw_only=True)
class Result:
    """Scores of one network on one data set.

    metrics: name to value, in the order of the paper; accuracies in percent.
    untrained: the same of a network with random weights, where that is asked for too.
    facts: what decides a score besides the weights: data set's release, counts seen and expected, transform,
        projection, BN mode and every option; written beside each number.
    problems: what was odd about the data, one line each: counts off, files that cannot be decoded.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, seen: int, expected: int) -> None:
        """Note how many images were seen, and say so where it is not the official number."""
        self.facts[what] = {"seen": seen, "expected": expected}
        if seen != expected:
            self.problems.append(f"{what}: {seen} where the official data set has {expected}")

    def note_strays(self, strays: Sequence[str]) -> None:
        """Say what else lies in the data set's folders, and was left out."""
        if strays:
            named = ", ".join(strays[:MAX_NAMED]) + (" ..." if len(strays) > MAX_NAMED else "")
            self.problems.append(f"left out, not of the data set: {len(strays)} ({named})")

    def expect_classes(self, label_N: np.ndarray, classes: Sequence[int], name_of_class: Sequence[str]) -> None:
        """Say which classes have no image at all.

        Args: label_N: int, classes of the images. classes: those of the data set. name_of_class: of every class.
        """
        seen = set(np.unique(label_N).tolist())
        missing = [name_of_class[label] for label in classes if label not in seen]
        if missing:
            named = ", ".join(missing[:MAX_NAMED]) + (" ..." if len(missing) > MAX_NAMED else "")
            self.problems.append(f"{len(missing)} of {len(classes)} classes have no image ({named})")

    def note_corrupt(self, keys: Sequence[str]) -> None:
        """Name the images that could not be decoded, the first of them where there are many."""
        self.problems += [f"{key} cannot be decoded" for key in keys[:MAX_CORRUPT]]
        if len(keys) > MAX_CORRUPT:
            self.problems.append(f"{len(keys) - MAX_CORRUPT} more images cannot be decoded")

    def fail_where_strict(self, strict: bool) -> None:
        """Raise UserError where anything was wrong and that was not to be."""
        if strict and self.problems:
            raise UserError("--strict: " + "; ".join(self.problems))
