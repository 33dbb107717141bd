"""What is drawn of a run beyond its records: its views again, and what its trained network does with its store."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from backdrop.errors import UserError
from backdrop.trainer.report import attention, spectrum
from backdrop.trainer.report.attention import Attention
from backdrop.trainer.report.exhibits import NUM_EXHIBITS, Exhibit, collect, view_names
from backdrop.trainer.report.loaded_run import Run
from backdrop.trainer.run.settings import method_module
from backdrop.trainer.run.trained_method import trained_method


@dataclass
class Shown:
    """What is drawn of a run beyond its records; each part is empty where why says what is missing."""

    exhibits: list[Exhibit] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    # Of "features" and "embedding": singular values float64 (M,), falling.
    spectra: dict[str, np.ndarray] = field(default_factory=dict)
    # Part to reason: exhibits, attention, spectra.
    why: dict[str, str] = field(default_factory=dict)


def look_at(run: Run, num_exhibits: int = NUM_EXHIBITS) -> Shown:
    """Draw what can be drawn of a run from its store and its latest checkpoint. Args: num_exhibits: rows at most."""
    shown = Shown()
    if run.beton is None:
        shown.why = dict.fromkeys(("exhibits", "attention", "spectra"), run.missing)
        return shown
    _add_exhibits(shown, run, run.beton, num_exhibits)
    _add_network(shown, run, run.beton)
    return shown


def _add_exhibits(shown: Shown, run: Run, beton: Path, num_wanted: int) -> None:
    settings = run.settings
    names = view_names(method_module(settings.method).HAS_NEGATIVES)
    try:
        shown.exhibits = collect(
            beton, run.store, settings.plan, seed=settings.seed, epoch=run.last_epoch, names=names,
            bad_rows=settings.bad_rows, num_wanted=num_wanted,
        )  # fmt: skip
    except UserError as error:
        shown.why["exhibits"] = f"The views cannot be drawn again: {error}"
        return
    if not shown.exhibits:
        shown.why["exhibits"] = "The store has no row with foreground and background."


def _add_network(shown: Shown, run: Run, beton: Path) -> None:
    """What the trained network does with rows of its store."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        method = trained_method(run.folder, device)
        answers = spectrum.answers(method, beton, run.settings)
        has_key = hasattr(method, "embed_key")
        shown.attention = attention.attended(method, beton, run.settings) if has_key else []
    except UserError as error:
        shown.why |= dict.fromkeys(("attention", "spectra"), f"The network cannot be looked at: {error}")
        return
    shown.spectra = {name: spectrum.singular_values(vector_ND) for name, vector_ND in answers.items()}
    if not has_key:
        shown.why["attention"] = f"{run.settings.method} has no key network, so no query is compared with a key."
    if not answers:
        shown.why |= dict.fromkeys(("attention", "spectra"), "The store has no row with foreground and background.")
