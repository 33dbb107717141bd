"""Everything that decides a run, in one frozen record; changed by `name=value` texts, kept as JSON.

Each part's own settings are in that part's file: views in `pipeline/views/view_plan.py`, a method's numbers in
`trainer/methods/<method>.py`, CAST's in `trainer/cast.py`.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

from backdrop.errors import UserError
from backdrop.pipeline.views.batch import BAD_ROWS, GEOMETRIES, ORDERS
from backdrop.pipeline.views.device_stage import FORMS
from backdrop.pipeline.views.view_plan import CROP_FALLBACKS, CROP_PROPOSALS, Background, View, ViewPlan
from backdrop.settings import SEEDS, at_least, check_settings, leaves, one_of
from backdrop.settings.overrides import split_override, with_override
from backdrop.trainer import online_probe
from backdrop.trainer.cast import Settings as CastSettings
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation import optimisers, schedules

_NO_PROBE = online_probe.Settings()
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One pretraining run."""

    method: Annotated[str, "A file of trainer/methods"]
    algorithm: Annotated[Any, "Settings of that method"]
    cast: Annotated[CastSettings | None, "CAST's settings; None = without CAST"] = None
    views: Annotated[tuple[View, ...], "How each view is cropped and altered"]
    background: Annotated[Background, "What happens to backgrounds"]
    crop_proposal: Annotated[
        str,
        one_of(CROP_PROPOSALS),
        "Where crops are proposed, see ViewPlan",
    ] = ViewPlan.crop_proposal
    crop_fallback: Annotated[
        str,
        one_of(CROP_FALLBACKS),
        "What is taken when all proposals fail, see ViewPlan",
    ] = ViewPlan.crop_fallback
    pair_constraint: Annotated[bool, "CAST's second constraint, see ViewPlan"] = ViewPlan.pair_constraint
    seed: Annotated[int, SEEDS, "Decides every draw and the initial weights"] = 0
    epochs: Annotated[int, at_least(1), "Passes over the images"]
    batch_size: Annotated[int, at_least(1), "Images a step, over all devices"]
    backbone: Annotated[str, "A name that a file of trainer/backbones/ serves"] = "resnet50"
    cifar_stem: Annotated[
        bool,
        "3x3 convolution of stride 1 and no max-pool at the entrance, for views of 32 to 64 px",
    ] = False
    optimiser: Annotated[optimisers.Settings, "How weights move"]
    schedule: Annotated[schedules.Settings, "Shape of the learning rate"]
    checkpoint_steps: Annotated[
        int,
        at_least(1),
        "Steps between checkpoints; one is also written after every epoch",
    ] = 1000
    keep_checkpoints: Annotated[int, at_least(1), "How many of the latest checkpoints stay"] = 2
    keep_every_epochs: Annotated[
        int,
        at_least(0),
        "Checkpoints at the end of every so many epochs stay for ever; 0 = only the latest stay",
    ] = 0
    without: Annotated[
        str,
        "Rows of the store that are left out, such as 1,5-9; --without @FILE says them by their keys",
    ] = ""
    log_steps: Annotated[int, at_least(1), "Steps between writes to metrics.jsonl; every step is recorded"] = 20
    log: Annotated[
        str,
        "Who is told of the curves beside TensorBoard: csv, wandb, mlflow or a file of your own; several with commas",
    ] = ""
    probe: Annotated[online_probe.Settings, "A score on the store's own rows while the run goes on"] = _NO_PROBE
    loader_threads: Annotated[
        int,
        at_least(0),
        "Threads of the loader; 0 = all cores, shared by the processes of a machine",
    ] = 0
    order: Annotated[
        str,
        one_of(ORDERS),
        "How an epoch goes through its rows: random, or quasi-random = within windows of 8,192 rows from 256 places of "
        "the file, for one that is colder than memory (pipeline/loader/LOADER.md)",
    ] = "random"
    geometry: Annotated[
        str,
        one_of(GEOMETRIES),
        "Where views are cut: host, or device = whole images are sent to it (spares the host, not the bus)",
    ] = "host"
    device_form: Annotated[
        str,
        one_of(FORMS),
        "How views are made of the crops on the device: rows = of those drawn alone; dense = all, in fixed shapes; "
        "compiled = dense through torch.compile, for a GPU",
    ] = "rows"
    shrink_on_decoding: Annotated[
        bool,
        "Whether images are decoded smaller where no view needs all their pixels; for small views of large images",
    ] = False
    bad_rows: Annotated[
        str,
        one_of(BAD_ROWS),
        "What a row that cannot be read does: error, or skip = another row takes its place and is named",
    ] = "error"
    precision: Annotated[
        str,
        one_of(PRECISIONS),
        "Number format of the convolutions: fp32, bf16, fp16 (with a scaled loss), or auto = bf16 on a GPU, else fp32",
    ] = "auto"
    is_compiled: Annotated[
        bool,
        "Whether torch.compile makes kernels of the backbones: half the step of a ResNet-50 on an H100 (COSTS.md), "
        "after minutes at the start; not worth them on a CPU",
    ] = False
    accumulation_steps: Annotated[
        int,
        at_least(1),
        "Parts that a process's images of a step are taken in, one after the other, to save memory",
    ] = 1
    sync_bn_group: Annotated[
        int,
        at_least(0),
        "Images normalised together by synchronised BatchNorm: processes form groups of that many images (Ryali's "
        "BYOL and SwAV: 8 processes of 64); 0 = all processes. MoCo's groups are algorithm.shuffle_bn_group "
        "instead",
    ] = 0
    processes_may_change: Annotated[
        bool,
        "Whether --resume may go on with another number of processes: the same images each step, other rounding",
    ] = False

    @property
    def plan(self) -> ViewPlan:
        """The views as the loader and the device stage take them."""
        return ViewPlan(
            views=self.views,
            background=self.background,
            crop_proposal=self.crop_proposal,
            crop_fallback=self.crop_fallback,
            pair_constraint=self.pair_constraint,
        )


def plan_fields(plan: ViewPlan) -> dict[str, Any]:
    """Return a plan's parts by name, as `RunSettings` takes them."""
    return {field.name: getattr(plan, field.name) for field in fields(plan)}


# --------------------------------------------------------------------------------------------------------- overrides


def apply_overrides(settings: RunSettings, overrides: typing.Iterable[str]) -> RunSettings:
    """Return the settings with `name=value` or `section.name=value` changes applied in order.

    `views.name=value` changes every view, `views.0.name=value` the first. Tuples are written 0.2,1.

    Raises: UserError: a text without "=", an unknown name, a value of another type.
    """
    for override in overrides:
        path, text = split_override(override)
        if path in ("method", "algorithm", "background.name", "cast"):
            raise UserError(f"{path} cannot be set here; it is chosen by --method, --bg and --cast")
        if path.startswith("cast.") and settings.cast is None:
            raise UserError(f"{path} is no setting of this run: CAST is off; add --cast")
        settings = with_override(settings, path, text, fixed=("method", "background.name", "cast"))
    return settings


# -------------------------------------------------------------------------------------------------------------- JSON


def to_json(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as plain data for a JSON file."""
    return dataclasses.asdict(settings)


def from_json(data: dict[str, Any]) -> RunSettings:
    """Return the settings written by `to_json`. Raises: UserError: fields are missing, unknown or impossible."""
    if not isinstance(data, dict) or "method" not in data:
        raise UserError("this file holds no run settings: it names no method")
    try:
        algorithm = _record(METHODS.load(_value(str, data["method"])).Settings, data["algorithm"])
        settings = _record(RunSettings, data | {"algorithm": algorithm})
        check_settings(settings)
        if not settings.views:
            raise ValueError("there are no views")
        return settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the run's settings do not fit this version of Backdrop: {error}") from error


def _record(kind: type, data: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in data.items()})


def _value(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if typing.get_origin(kind) is types.UnionType:
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if is_dataclass(kind):
        return _record(typing.cast(type, kind), value)
    if typing.get_origin(kind) is tuple:
        item_kinds = typing.get_args(kind)
        if item_kinds[-1] is Ellipsis:
            return tuple(_value(item_kinds[0], item) for item in value)
        return tuple(_value(item_kind, item) for item_kind, item in zip(item_kinds, value, strict=True))
    # JSON writes 1.0 as it is; a whole number in its place is the same.
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def differences(old: RunSettings, new: RunSettings) -> list[str]:
    """Return "name: old -> new" for every setting that differs, by path."""
    old_flat, new_flat = by_path(old), by_path(new)
    return [
        f"{name}: {old_flat.get(name)!r} -> {new_flat.get(name)!r}"
        for name in sorted(old_flat.keys() | new_flat.keys())
        if old_flat.get(name) != new_flat.get(name)
    ]


def by_path(settings: RunSettings) -> dict[str, Any]:
    """Return every setting by its path, as overrides name it: {"views.0.size_px": 224, ...}; tuples become lists."""
    return {leaf.path: list(leaf.value) if isinstance(leaf.value, tuple) else leaf.value for leaf in leaves(settings)}
