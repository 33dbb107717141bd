"""Means over seeds, and how far they tell two rows apart: Student's t over the differences of runs with equal seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
UP, DOWN, TIE = "up", "down", "tie"
# What two directions make of each other.
AGREES, OPPOSITE, OPEN = "agrees", "opposite", "not told apart"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One score over seeds. by_seed: seed -> score."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.by_seed.values()) / len(self.by_seed)

    @property
    def sem(self) -> float | None:
        """Its standard error: the standard deviation (n - 1) over sqrt(n); None for a single seed."""
        number = len(self.by_seed)
        if number == 1:
            return None
        variance = math.fsum((value - self.mean) ** 2 for value in self.by_seed.values()) / (number - 1)
        return math.sqrt(variance / number)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's interval of the mean at CONFIDENCE; None for a single seed."""
        sem = self.sem
        if sem is None:
            return None
        half = sem * float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(self.by_seed) - 1))
        return self.mean - half, self.mean + half


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row less its table's baseline, seed by seed. p: of the paired t-test, None where seeds do not allow one."""

    sample: Sample
    p: float | None

    @property
    def direction(self) -> str:
        """UP or DOWN where the interval leaves out 0, else TIE; of a single seed the sign, which tells nothing."""
        interval = self.sample.interval
        if interval is None:
            return sign(self.sample.mean)
        low, high = interval
        return UP if low > 0 else DOWN if high < 0 else TIE


def sign(difference: float) -> str:
    """Return the direction of a number that is taken as it stands, as printed ones are."""
    return UP if difference > 0 else DOWN if difference < 0 else TIE


def paired(ours: Sample, baseline: Sample) -> Difference | None:
    """Return a row less its baseline over the seeds that both have; None where there are none."""
    shared = {
        seed: round(value - baseline.by_seed[seed], 9)
        for seed, value in ours.by_seed.items()
        if seed in baseline.by_seed
    }
    if not shared:
        return None
    sample = Sample(by_seed=shared)
    if not sample.sem:  # one seed, or the same difference each time
        return Difference(sample=sample, p=None)
    t = sample.mean / sample.sem
    return Difference(sample=sample, p=float(2 * stats.t.sf(abs(t), len(shared) - 1)))


def verdict(ours: str, papers: str) -> str:
    """Return whether two directions agree. Where ours is a tie, the seeds do not tell: that refutes nothing."""
    if ours == papers:
        return AGREES
    return OPEN if TIE in (ours, papers) else OPPOSITE
