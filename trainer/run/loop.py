"""Pretraining from the command line's words to a run folder; what can fail early fails before anything is built."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop.errors import UserError, program
from backdrop.open_sets import plugins
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.progress import note_default
from backdrop.ranks import Ranks, joined
from backdrop.settings.given import Given
from backdrop.settings.overrides import split_override
from backdrop.stores.format.reader import open_store
from backdrop.stores.sharing.store_cache import cache_folder
from backdrop.trainer.cast import in_use
from backdrop.trainer.following_settings import following
from backdrop.trainer.methods import METHODS
from backdrop.trainer.online_probe import BATCH_SIZE, OnlineProbe
from backdrop.trainer.recipes import RECIPES
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.distributed import TIMEOUT, loader_threads, share_of
from backdrop.trainer.run.left_out_rows import rows_left
from backdrop.trainer.run.read_start_weights import start_weights
from backdrop.trainer.run.run_folder import Origin
from backdrop.trainer.run.trained_store import TrainedStore, trained_store
from backdrop.trainer.run.training import Probe, train
from backdrop.trainer.settings import RunSettings, apply_overrides


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What is asked for, as the command line has it.

    method: a file of trainer/methods. background: a file of pipeline/views/backgrounds. with_cast: add CAST.
    recipe: a file of trainer/recipes. overrides: name=value changes of the recipe's settings. start_weights: what the
    backbone begins with, a file of weights or a run's folder; None = drawn.
    """

    method: str
    background: str
    recipe: str
    with_cast: bool = False
    overrides: Sequence[str] = ()
    start_weights: Path | None = None

    def resolved(self) -> RunSettings:
        """Return its settings, see `resolve_settings`."""
        return resolve_settings(self.recipe, self.method, self.background, self.with_cast, self.overrides)

    def unchecked(self) -> RunSettings:
        """Return its settings without asking whether they go together: a run that it starts from need not be there."""
        return _whole(*_resolved(self.recipe, self.method, self.background, self.with_cast, self.overrides))

    def followed(self) -> list[Given]:
        """Return the settings that were not asked for and follow from those that were, see `following`."""
        return _resolved(self.recipe, self.method, self.background, self.with_cast, self.overrides)[1]


def pretrain(
    request: RunRequest, source: StoreSource | Path | str, *, out: Path | str, resume: bool = False
) -> dict[str, Any] | None:
    """Pretrain a backbone on a store; in every process that torchrun started, or alone.

    Args: request: what is trained. source: on which store, or where that is. out: the run's folder.
        resume: go on with the run in `out`, or start it where there is none.
    Returns: summary of the run; None but in the first process. Raises: UserError: anything given is wrong.
    """
    source, out = source if isinstance(source, StoreSource) else StoreSource(store=source), Path(out)
    store = source.store
    if isinstance(store, str):
        source = replace(source, cache=cache_folder(source.cache))
    settings = request.resolved()
    beton = beton_of(source)
    origin = Origin(
        recipe=request.recipe,
        dataset=read_sidecar(beton)["dataset"],
        beton=str(beton.absolute()),
        store_url=store if isinstance(store, str) else "",
        command=_command(request, source, out),
        store=store_met(store, beton),
        start_weights=start_weights(request.start_weights, settings, out),
    )
    with joined(timeout=TIMEOUT) as ranks:
        share = share_of(settings, ranks.size)
        with opened_loader(settings, store, beton, batch_size=share, ranks=ranks) as loader:
            probe = _online_probe(settings, loader, beton)
            return train(settings, loader, out, origin=origin, resume=resume, ranks=ranks, probe=probe)


def store_met(store: Path | str, beton: Path) -> TrainedStore:
    """Return what is kept of a store. Args: store: as named by the user. beton: of `beton_of`."""
    is_at_hand = isinstance(store, Path) and store.suffix == ".zarr"
    return trained_store(read_sidecar(beton), open_store(store).identity if is_at_hand else None)


def _command(request: RunRequest, source: StoreSource, out: Path) -> str:
    """The command line that asks for it."""
    words = ["pretrain", "--method", request.method, "--bg", request.background]
    words += [*(["--cast"] if request.with_cast else []), "--store", str(source.store), "--recipe", request.recipe]
    words += [f"--set={setting}" for setting in request.overrides]
    words += ["--start-weights", str(request.start_weights)] if request.start_weights else []
    from_url = (("--cache", source.cache if isinstance(source.store, str) else None), ("--root", source.root))
    words += [word for name, given in from_url if given for word in (name, str(given))]
    words += [word for plugin in plugins() for word in ("--plugin", str(plugin.path))]
    return shlex.join([*program().split(), *words, "--out", str(out)])


@contextmanager
def opened_loader(
    settings: RunSettings, store: Path | str, beton: Path, *, batch_size: int, ranks: Ranks
) -> Iterator[Loader]:
    """Open the loader that feeds a run, and check that store and labels are what the run needs.

    Args: store: as named by the user. beton: of `beton_of`. batch_size: rows that this process takes at once.
    Raises: UserError: the beton is of another build of the store, or a method does not find its labels.
    """
    loader = Loader(
        beton,
        settings.plan,
        LoaderOptions(
            batch_size=batch_size,
            seed=settings.seed,
            num_threads=loader_threads(settings),
            rank=ranks.rank,
            world_size=ranks.size,
            order=settings.order,
            geometry=settings.geometry,
            shrink_on_decoding=settings.shrink_on_decoding,
            bad_rows=settings.bad_rows,
            rows=rows_left(settings.without, beton),
        ),
    )
    with loader:
        if not isinstance(store, str):
            _check_same_store(Path(store), beton, loader.store_id)
        if not loader.has_masks and in_use(settings.cast) is not None:
            raise UserError(
                f"{beton} is a data set of FFCV's own and has no masks, which CAST is about; leave out --cast"
            )
        METHODS.load(settings.method).check_labels(settings.algorithm, loader.labels)
        yield loader


def default_recipe(method: str) -> str:
    """Return the recipe taken when none was named, and say so: the paper's on a GPU, a small one without.

    Args: method: a file of trainer/methods.
    """
    paper = METHODS.load(method).DEFAULT_RECIPE
    if torch.cuda.is_available():
        recipe, why = paper, "the method's own"
    else:
        recipe, why = "smoke", f"no GPU here; with one it would be {paper}"
    note_default("recipe", recipe, why)
    return recipe


def resolve_settings(
    recipe: str, method: str, background: str, with_cast: bool, overrides: Sequence[str]
) -> RunSettings:
    """Return a recipe's settings with the user's changes and what follows from them, checked.

    Raises: UserError: unknown recipe or setting; settings that are impossible or do not go together.
    """
    settings = _whole(*_resolved(recipe, method, background, with_cast, overrides))
    check(settings)
    return settings


def _whole(changed: RunSettings, followed: list[Given]) -> RunSettings:
    return apply_overrides(changed, [one.override for one in followed])


def _resolved(
    recipe: str, method: str, background: str, with_cast: bool, overrides: Sequence[str]
) -> tuple[RunSettings, list[Given]]:
    """The recipe's settings with the user's changes, and the changes that follow from them."""
    own = RECIPES.load(recipe).settings(method, background, with_cast)
    changed = apply_overrides(own, overrides)
    return changed, following(own, changed, {split_override(override)[0] for override in overrides})


def _online_probe(settings: RunSettings, loader: Loader, beton: Path) -> Probe | None:
    """What scores the backbone while the run goes on, on rows of the same file; None where that is off."""
    if not settings.probe.every_epochs:
        return None

    def open_loader(plan: ViewPlan, rows: np.ndarray) -> Loader:
        return Loader(
            beton,
            plan,
            LoaderOptions(
                batch_size=min(BATCH_SIZE, len(rows)),
                seed=settings.seed,
                num_threads=loader_threads(settings),
                drop_last=False,
                rows=rows,
                bad_rows=settings.bad_rows,
            ),
        )

    size_px = max(view.size_px for view in settings.views)
    return OnlineProbe(
        settings.probe, loader.rows, loader.labels, open_loader, seed=settings.seed, size_px=size_px
    ).score


def _check_same_store(store: Path, beton: Path, beton_store_id: str) -> None:
    """Raise UserError when a beton was exported from another build of the store than the one named."""
    if store.suffix != ".zarr":
        return
    store_id = open_store(store).store_id
    if store_id != beton_store_id:
        raise UserError(
            f"{beton} was exported from store {beton_store_id}, but {store} is store {store_id}; export it again: "
            f"{program()} store export {store} --format beton"
        )
