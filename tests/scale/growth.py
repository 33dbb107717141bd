"""How what was measured grows with the rows, and what follows for ImageNet.

Time is compared between the smallest run and the largest. Memory goes by the two largest: a few thousand rows lie in
smaller parts than many do, which is no growth. Pages of mapped files are left out, for the system takes them back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IMAGENET = 1_281_167
MOST_MB = 4096
# A server of the tests holds what is published in memory, hence is asked for few rows alone.
FEW_ROWS_ALONE = ("s3",)
# Times of two runs on a machine that does other things too.
_NOISE = 1.25
# Memory of two runs that differ by less is the same.
_MEMORY_NOISE = 1.1
# Seconds that starting Python and importing take, of which nothing is to be concluded.
_SOON_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A line through two runs of a stage: fixed + per_row x rows.

    smallest, largest: numbers of rows. cpu_seconds, megabytes: at ImageNet's rows, by that line. factor: how many times
    the CPU time grew from the smallest run to the largest, over how many times the rows did; above 1 = faster.
    """

    stage: str
    smallest: int
    largest: int
    cpu_seconds: float
    megabytes: float
    factor: float


def fits(rows: Sequence[dict]) -> Iterator[Fit]:
    """Fit every stage that was run at two numbers of rows. Args: rows: of `measure`."""
    for stage in dict.fromkeys(row["stage"] for row in rows):
        runs = sorted((row for row in rows if row["stage"] == stage), key=lambda row: row["rows"])
        few, between, many = runs[0], runs[-2:][0], runs[-1]
        if few["rows"] < many["rows"]:
            times = many["rows"] / few["rows"]
            yield Fit(
                stage=stage,
                smallest=few["rows"],
                largest=many["rows"],
                cpu_seconds=_at_imagenet(few, many, "cpu_seconds"),
                megabytes=_megabytes_at_imagenet(between, many),
                factor=many["cpu_seconds"] / max(few["cpu_seconds"], _SOON_S) / times,
            )


def complaints(rows: Sequence[dict]) -> list[str]:
    """What is not as it should be: a stage that grows faster than rows, a process that takes or will take too much."""
    found = [
        f"{row['stage']} at {row['rows']:,} rows: a process had {row['peak_mb']:,.0f} MB, allowed are {MOST_MB:,}"
        for row in rows
        if row["peak_mb"] > MOST_MB
    ]
    for fit in fits(rows):
        if fit.factor > _NOISE:
            found.append(f"{fit.stage} grows {fit.factor:.2f} times as fast as rows, to {fit.largest:,} of them")
        if fit.megabytes > MOST_MB and fit.stage not in FEW_ROWS_ALONE:
            found.append(
                f"{fit.stage} would take {fit.megabytes:,.0f} MB at {IMAGENET:,} rows, allowed are {MOST_MB:,}"
            )
    return found


def _megabytes_at_imagenet(few: dict, many: dict) -> float:
    is_same = many["own_mb"] <= _MEMORY_NOISE * few["own_mb"]
    return many["own_mb"] if is_same else _at_imagenet(few, many, "own_mb")


def _at_imagenet(few: dict, many: dict, name: str) -> float:
    slope = (many[name] - few[name]) / (many["rows"] - few["rows"])
    return many[name] + max(0.0, slope) * (IMAGENET - many["rows"])
