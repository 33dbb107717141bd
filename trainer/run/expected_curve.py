"""What a run's losses should look like, said when it starts, in its folder and on its page: low does not mean good."""

from backdrop.trainer import cast
from backdrop.trainer.methods import METHODS
from backdrop.trainer.settings import RunSettings


def expected_curve(settings: RunSettings) -> str:
    """Return what to expect of a run's losses, in numbers of its own settings. Each method says it in its file."""
    notes = [METHODS.load(settings.method).expected_curve(settings.algorithm)]
    if cast.in_use(settings.cast):
        notes.append(cast.EXPECTED_CURVE)
    return " ".join(notes)
