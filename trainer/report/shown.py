"""What is drawn of a run beyond its records: its views again, and what its trained network does with its store."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from backdrop.errors import UserError
from backdrop.trainer.methods import METHODS
from backdrop.trainer.parts.pretraining_method import QueryKeyMethod
from backdrop.trainer.report import attention, spectrum
from backdrop.trainer.report.attention import Attention
from backdrop.trainer.report.examples import NUM_EXAMPLES, Example, collect, view_names
from backdrop.trainer.report.loaded_run import Run
from backdrop.trainer.run.trained_method import trained_method


@dataclass
class Shown:
    """What is drawn of a run beyond its records; each part is empty where why says what is missing."""

    examples: list[Example] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    # Of "features" and "embedding": singular values float64 (M,), falling.
    spectra: dict[str, np.ndarray] = field(default_factory=dict)
    # Part to reason: examples, attention, spectra.
    why: dict[str, str] = field(default_factory=dict)


def look_at(run: Run, num_examples: int = NUM_EXAMPLES) -> Shown:
    """Draw what can be drawn of a run from its store and its latest checkpoint. Args: num_examples: rows at most."""
    shown = Shown()
    if run.beton is None:
        shown.why = dict.fromkeys(("examples", "attention", "spectra"), run.missing)
        return shown
    _add_examples(shown, run, run.beton, num_examples)
    _add_network(shown, run, run.beton)
    return shown


def _add_examples(shown: Shown, run: Run, beton: Path, num_wanted: int) -> None:
    settings = run.settings
    names = view_names(METHODS.load(settings.method).HAS_NEGATIVES)
    try:
        shown.examples = collect(beton, run.store, settings, epoch=run.last_epoch, names=names, num_wanted=num_wanted)
    except UserError as error:
        shown.why["examples"] = f"The views cannot be drawn again: {error}"
        return
    if not shown.examples:
        shown.why["examples"] = "The store has no row with foreground and background."


def _add_network(shown: Shown, run: Run, beton: Path) -> None:
    """What the trained network does with rows of its store."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        method = trained_method(run.folder, device)
        found = spectrum.embeddings(method, beton, run.settings)
        if isinstance(method, QueryKeyMethod):
            shown.attention = attention.attended(method, beton, run.settings)
    except UserError as error:
        shown.why |= dict.fromkeys(("attention", "spectra"), f"The network cannot be looked at: {error}")
        return
    shown.spectra = {name: spectrum.singular_values(vector_ND) for name, vector_ND in found.items()}
    if not isinstance(method, QueryKeyMethod):
        shown.why["attention"] = f"{run.settings.method} has no key network, so no query is compared with a key."
    if not found:
        shown.why |= dict.fromkeys(("attention", "spectra"), "The store has no row with foreground and background.")
