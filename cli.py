"""The command line: each command parses, calls one function and prints. Heavy imports stay inside the commands."""

import json
import os
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backdrop.disk_errors import closed_folders, disk_errors
from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE, OpenSet, use_plugin
from backdrop.pipeline.views import backgrounds
from backdrop.progress import QUIET_VARIABLE, is_quiet, note
from backdrop.saliency.command_options import DetectorOption
from backdrop.stores import engines
from backdrop.stores.datasets import DATASETS, short_name
from backdrop.trainer import evaluation, methods, recipes

if TYPE_CHECKING:
    from backdrop.stores.format.reader import Store

# Torch's threads sleep between two operations instead of spinning: on a machine that others use too, spinning made a
# training step up to 17 times slower. Read when torch is imported, which the commands do; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Torch's large tensors on a CPU come in huge pages: without, page faults took half of the device stage's time there.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ARTIFACTS = Path("artifacts")
DETECTOR_RUN = ARTIFACTS / "detector"

# Formats of masks alone: their file in stores/, and what takes the place of ".zarr" in the store's name.
MASK_EXPORTS = {
    "hdf5": ("hdf5", ".h5"),
    "png": ("png", ".masks"),
    "coco-rle": ("coco_rle", ".coco.json"),
}


JSON_KEY = "backdrop.json"

path_type = click.Path(path_type=Path)


def be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Leave out bars and notes until the command ends, in this process and those it starts."""
    if value and not is_quiet():
        os.environ[QUIET_VARIABLE] = "1"
        ctx.call_on_close(lambda: os.environ.pop(QUIET_VARIABLE, None))


def quiet_option() -> click.Option:
    """Return the option that every command and group has."""
    words = "No bars, no notes: only results, warnings and errors."
    return click.Option(["--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=be_quiet, help=words)


def use_plugins(ctx: click.Context, param: click.Parameter, value: tuple[Path, ...]) -> None:
    """Make the members of plug-in files known until the command ends, in this process and those it starts."""
    if not value:
        return
    before = os.environ.get(PLUGINS_VARIABLE)
    ctx.call_on_close(
        lambda: (
            os.environ.pop(PLUGINS_VARIABLE, None) if before is None else os.environ.update({PLUGINS_VARIABLE: before})
        )
    )
    for path in value:
        use_plugin(path)


class MemberOf(click.Choice):
    """A member of an open set: the project's own, an installed package's, or a plug-in file's."""

    def __init__(self, open_set: OpenSet[Any], *more: str) -> None:
        super().__init__([*open_set.built_in(), *more])
        self._open_set, self._more = open_set, more

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Look the name up, now that the plug-ins are known."""
        self.choices = [*self._open_set.names(), *self._more]
        return super().convert(value, param, ctx)


class Command(click.Command):
    """Has a result, which --json prints as JSON; takes --quiet and --plugin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        json_option = click.Option(
            ["--json"],
            is_flag=False,
            flag_value="-",
            metavar="[FILE]",
            type=click.Path(dir_okay=False, allow_dash=True),
            expose_value=False,
            callback=lambda ctx, param, value: ctx.meta.update({JSON_KEY: value}),
            help="Print the result as JSON and nothing else on standard output; with FILE, write it there too.",
        )
        plugin_option = click.Option(
            ["--plugin"],
            multiple=True,
            type=path_type,
            is_eager=True,
            expose_value=False,
            callback=use_plugins,
            metavar="FILE.py",
            help="A method, background, backbone, data set, ... of your own; may be repeated.",
        )
        self.params += [json_option, quiet_option(), plugin_option]


class Commands(click.Group):
    """Prints a user's mistake as one message with exit code 2; anything else is ours and keeps its traceback."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(quiet_option())

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command, turning `UserError` into click's own kind of error."""
        try:
            with closed_folders():
                return super().invoke(ctx)
        except UserError as error:
            mistake = click.ClickException(str(error))
            mistake.exit_code = 2
            raise mistake from error


def say_default(name: str, value: object, why: str) -> None:
    """Say which default was taken, so that nobody has to guess which detector, store or folder was used."""
    note(f"{name}: {value} ({why})")


def print_result(result: object, text: str | None = None) -> None:
    """Print a command's result on standard output, where nothing else goes, and where asked write it to a file.

    Args: result: JSON-able. text: what is printed for people unless JSON was asked for; None = JSON always.
    """
    json_to = click.get_current_context().meta.get(JSON_KEY)
    as_json = json.dumps(result, indent=2, default=str)
    click.echo(as_json if text is None or json_to == "-" else text)
    if json_to not in (None, "-"):
        write_json(as_json, Path(json_to))


def write_json(as_json: str, json_path: Path) -> None:
    """Write a result to the file of --json."""
    try:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(as_json + "\n")
    except OSError as error:
        raise UserError(f"--json {json_path} cannot be written: {error.strerror}. Give a writable file.") from error


def note_store(summary: dict[str, Any]) -> None:
    """Say in a line what became of a store's rows."""
    statuses = ", ".join(f"{count:,} {label}" for label, count in summary["status"].items() if count)
    built = f"{summary['rows_built']:,} now, {summary['rows_per_second']:,} rows/s" if summary["rows_built"] else "kept"
    note(f"store: {summary['num_rows']:,} rows ({statuses}; {built}) in {summary['store']}")


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the versions that matter in a report of a fault, and end."""
    if not value or ctx.resilient_parsing:
        return
    from backdrop.pipeline.versions import versions

    click.echo("\n".join(f"{name:14} {version}" for name, version in versions().items()))
    ctx.exit()


class StoreOrUrl(click.ParamType):
    """A store's folder, as a Path, or the URL of a published one, as a str."""

    name = "store or url"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Tell them apart."""
        return value if "://" in str(value) else Path(value)


class DatasetName(click.ParamType):
    """A member of the data sets, with its argument where it takes one: list:FILE."""

    name = "dataset"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names, for --help."""
        return f"[{'|'.join(DATASETS.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none of them."""
        DATASETS.load(value.partition(":")[0])
        return value


cache_option = click.option(
    "--cache",
    type=path_type,
    default=None,
    envvar="BACKDROP_CACHE",
    show_envvar=True,
    help="For a URL: the folder that keeps what is fetched. Default: artifacts/cache.",
)


def cache_folder(cache: Path | None) -> Path:
    """Return the folder that keeps what is read of published stores."""
    if cache is None:
        cache = ARTIFACTS / "cache"
        say_default("cache", cache, "the default of --cache and BACKDROP_CACHE")
    return cache


def open_for_reading(store: Path | str, cache: Path | None, *, allow_partial: bool = False) -> "Store":
    """Open a store on this machine, or through the cache one that is published."""
    from backdrop.stores.format.reader import open_store
    from backdrop.stores.sharing.store_cache import open_published

    if isinstance(store, str):
        return open_published(store, cache_folder(cache))
    return open_store(store, allow_partial=allow_partial)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Print the versions that matter, and end.",
)
def main() -> None:
    """Backdrop: find foregrounds, store masks and backgrounds, pretrain on them, score.

    Data sets are looked for under the folder named by the environment variable BACKDROP_DATA. Standard output holds
    results alone; bars, the defaults taken and a line per stage go to standard error. Exit codes: 0 done, 1 'store
    verify' found problems or 'store diff' differences, 2 something given was wrong.
    """


# ---------------------------------------------------------------------------------------------------------- saliency


@main.group("saliency")
def saliency_group() -> None:
    """Find foregrounds: train a detector, draw its maps, measure them."""


@saliency_group.command("train")
@click.option("--dataset", type=DatasetName(), default=None, help="A data set: its images, no labels. Default: msra-b.")
@click.option("--images", type=path_type, default=None, help="Any folder of images, instead of --dataset.")
@click.option("--root", type=path_type, default=None, help="Where --dataset lies. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, default=DETECTOR_RUN, show_default=True, help="The run's folder.")
@click.option("--preset", default=None, help="paper, small or tiny. Default: paper on a GPU, else small.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Change one setting of the preset.")
@click.option("--source", "sources", multiple=True, cls=DetectorOption, help="One more source of pseudo-labels.")
@click.option("--backbone-weights", type=path_type, default=None, help="A run of pretrain --backbone drn_d_105.")
@click.option("--validation", type=path_type, default=None, help="Folder with images/ and masks/: scores, to report.")
@click.option("--seed", default=0, show_default=True)
def saliency_train(
    dataset: str | None,
    images: Path | None,
    root: Path | None,
    out: Path,
    preset: str | None,
    overrides: tuple[str, ...],
    sources: tuple[str, ...],
    backbone_weights: Path | None,
    validation: Path | None,
    seed: int,
) -> None:
    """Train DeepUSPS2 without labels; the same command resumes. Several GPUs: torchrun --nproc-per-node N cli.py ..."""
    from backdrop.saliency.deepusps2.deepusps import default_preset, train
    from backdrop.saliency.deepusps2.settings import choose_settings
    from backdrop.stores.datasets import open_index
    from backdrop.stores.drawn_sample.first_use import draw_at_first_use

    if dataset and images:
        raise UserError("--dataset and --images were both given. Give one of them.")
    if not dataset and not images:
        dataset = "msra-b"
        say_default("dataset", dataset, "the default of saliency train")
    if preset is None:
        preset, why = default_preset()
        say_default("preset", preset, why)
    settings = choose_settings(preset, overrides, sources)
    draw_at_first_use(dataset, root)
    index = open_index("folder", root=images) if images else open_index(str(dataset), root=root)
    say_default("detector run", out, "use it with: build-store --detector")
    with disk_errors(out):
        summary = train(index, out, settings, seed=seed, backbone_weights=backbone_weights, validation=validation)
    if summary is not None:
        note(f"detector: trained on {summary['num_images']:,} images, loss {summary['final_loss']:.4f}, in {out}")
        print_result(summary)


@saliency_group.command("predict")
@click.option("--images", type=path_type, required=True, help="Folder of images, searched recursively.")
@click.option("--detector", default="rbd", show_default=True, cls=DetectorOption)
@click.option("--out", type=path_type, required=True, help="Folder for the 8-bit PNG maps.")
@click.option("--threshold", type=float, default=None, help="Write masks: 255 where saliency is greater. 0.9 in Ryali.")
def saliency_predict(images: Path, detector: str, out: Path, threshold: float | None) -> None:
    """Write a soft saliency map for every image; the same command resumes."""
    from backdrop.saliency.inference import predict_folder

    with disk_errors(out):
        summary = predict_folder(images, detector, out, threshold=threshold)
    there, without = summary["num_skipped"], len(summary["problems"])
    note(f"maps: {summary['num_written']:,} written, {there:,} there before, {without:,} images without one, in {out}")
    print_result(summary)


@saliency_group.command("evaluate")
@click.option("--images", type=path_type, required=True, help="Folder of images.")
@click.option("--masks", type=path_type, required=True, help="Folder of true masks: PNG, foreground above 127.")
@click.option("--detector", "detectors", multiple=True, default=("rbd",), show_default=True, cls=DetectorOption)
@click.option("--size", type=click.IntRange(min=1), default=None, help="Score at squares of this side: 432 in Ryali.")
def saliency_evaluate(images: Path, masks: Path, detectors: tuple[str, ...], size: int | None) -> None:
    """Measure detectors against true masks: F in four protocols, MAE, IoU. A table, and JSON on standard output."""
    from backdrop.saliency.scoring.metrics import evaluate_folder, table

    scores = {detector: evaluate_folder(images, masks, detector, size_px=size) for detector in detectors}
    note(table(scores))
    print_result(scores[detectors[0]] if len(detectors) == 1 else scores)


@saliency_group.command("report")
@click.option("--images", type=path_type, default=None, help="Folder of images to score on; with --masks.")
@click.option("--masks", type=path_type, default=None, help="Folder of true masks: PNG, foreground above 127.")
@click.option("--detector", "detectors", multiple=True, default=("rbd",), show_default=True, cls=DetectorOption)
@click.option("--run", "runs", type=path_type, multiple=True, help="A run of saliency train, finished or not.")
@click.option("--size", type=click.IntRange(min=1), default=None, help="Score at squares of this side: 432 in Ryali.")
@click.option("--out", type=path_type, default=ARTIFACTS / "saliency.html", show_default=True, help="The page.")
def saliency_report(
    images: Path | None,
    masks: Path | None,
    detectors: tuple[str, ...],
    runs: tuple[Path, ...],
    size: int | None,
    out: Path,
) -> None:
    """Write a page about detectors: scores, precision-recall curves, worst and best images, the course of trainings."""
    from backdrop.saliency.report_page import write_report

    with disk_errors(out):
        page = write_report(out, images=images, masks=masks, detectors=detectors, runs=runs, size_px=size)
    print_result({"page": str(page)}, f"page: {page}")


# ------------------------------------------------------------------------------------------------------------ stores


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes; with --engine slurm, jobs. Default: one per GPU where the detector uses them, else one per core.",
)
engine_option = click.option(
    "--engine",
    type=MemberOf(engines.ENGINES),
    default="local",
    show_default=True,
    help="What runs them.",
)


@main.command("build-store")
@click.option("--dataset", type=DatasetName(), required=True)
@click.option("--root", type=path_type, default=None, help="Where the data set lies. Default: BACKDROP_DATA/<dataset>.")
@click.option("--split", default="train", show_default=True)
@click.option("--detector", default=None, cls=DetectorOption, help="Default: artifacts/detector if there, else rbd.")
@click.option("--out", type=path_type, default=None, help="Default: artifacts/<dataset>-<split>.zarr")
@click.option("--threshold", default=None, type=float, help="Foreground is saliency above this. Default: 0.9.")
@click.option(
    "--fill", type=click.Choice(["tile", "telea", "ns"]), default=None, help="Background fill. Default: tile."
)
@click.option("--soft-maps/--no-soft-maps", default=False, help="Also keep 8-bit soft maps.")
@workers_option
@engine_option
@click.option("--beton/--no-beton", default=True, show_default=True, help="Also export the .beton the loader reads.")
@click.option("--from", "parent", type=path_type, default=None, help="Cut the soft maps of this store at --threshold.")
@click.option("--plan", is_flag=True, help="Only estimate parts, bytes and time, from a measured sample.")
def build_store_command(
    dataset: str,
    root: Path | None,
    split: str,
    detector: str | None,
    out: Path | None,
    threshold: float | None,
    fill: str | None,
    soft_maps: bool,
    workers: int | None,
    engine: str,
    beton: bool,
    parent: Path | None,
    plan: bool,
) -> None:
    """Find and store the mask and the background of every image; the same command resumes."""
    from backdrop.pipeline.beton.writer import export_beton
    from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
    from backdrop.pipeline.build.plan import plan_store
    from backdrop.pipeline.build.rethreshold import rethreshold_store
    from backdrop.stores.datasets import open_index
    from backdrop.stores.drawn_sample.first_use import draw_at_first_use
    from backdrop.stores.format.reader import open_store

    if parent is not None and (threshold is None or out is None or detector or fill or soft_maps or plan):
        raise UserError("--from STORE takes its settings from that store: give --threshold and --out, and no others.")
    draw_at_first_use(dataset, root)
    index = open_index(dataset, root=root, split=split)
    if out is None:
        out = store_path_of(dataset, split)
        say_default("store", out, "the default of --out")
    if parent is not None and threshold is not None:
        summary = rethreshold_store(parent, index, out, threshold=threshold, num_workers=workers, engine=engine)
    else:
        detector = detector or default_detector()
        given = {"threshold": threshold, "fill": fill, "keeps_soft_maps": soft_maps}
        settings = BuildSettings(**{name: value for name, value in given.items() if value is not None})
        if plan:
            print_result(plan_store(index, detector, out, settings))
            return
        summary = build_store(index, detector, out, settings, num_workers=workers, engine=engine)
    note_store(summary)
    if summary["store_id"] is None:
        note("this process's share is done; the last one to end finishes the store, and exports it")
    elif beton:
        summary["beton"] = str(export_beton(open_store(out), index, out.with_suffix(".beton")))
        note(f"beton: {summary['beton']}")
    print_result(summary)


def default_detector() -> str:
    """Return the detector taken when none was named, and print it."""
    if (DETECTOR_RUN / "detector.json").exists():
        say_default("detector", DETECTOR_RUN, "trained by saliency train")
        return str(DETECTOR_RUN)
    say_default("detector", "rbd", "none was trained yet")
    return "rbd"


def store_path_of(dataset: str, split: str) -> Path:
    """Return where the store of a data set's split lies unless --out or --store says otherwise."""
    return ARTIFACTS / f"{short_name(dataset)}-{split}.zarr"


@main.group("store")
def store_group() -> None:
    """Look into stores, check them, export them."""


allow_partial_option = click.option("--allow-partial", is_flag=True, help="Also open a store that is half built.")


@store_group.command("info")
@click.argument("store", type=StoreOrUrl())
@allow_partial_option
@cache_option
def store_info(store: Path | str, allow_partial: bool, cache: Path | None) -> None:
    """Print a store's identity and what is in it; of s3://bucket/prefix or file:///folder what the manifest says."""
    from backdrop.stores.format.reader import describe

    print_result(describe(open_for_reading(store, cache, allow_partial=allow_partial)))


@store_group.command("verify")
@click.argument("store", type=path_type)
@click.option("--quick/--full", default=False, help="Sizes and counts only, or every byte and mask (the default).")
@allow_partial_option
def store_verify(store: Path, quick: bool, allow_partial: bool) -> None:
    """Check a store; exit code 1 when something is wrong."""
    from backdrop.stores.maintenance.verify import verify

    problems = verify(store, full=not quick, allow_partial=allow_partial)
    verdict = f"{store}: {len(problems)} problems" if problems else f"{store}: sound"
    result = {"store": str(store), "sound": not problems, "problems": [vars(problem) for problem in problems]}
    print_result(result, "\n".join([*map(str, problems), verdict]))
    sys.exit(1 if problems else 0)


@store_group.command("status")
@click.argument("store", type=path_type)
def store_status(store: Path) -> None:
    """Print what of a store is built, what is missing or failed, and how long the rest takes."""
    from backdrop.stores.maintenance.build_status import status

    print_result(status(store))


@store_group.command("diff")
@click.argument("a", type=StoreOrUrl())
@click.argument("b", type=StoreOrUrl())
@cache_option
def store_diff(a: Path | str, b: Path | str, cache: Path | None) -> None:
    """Print what differs between two stores, folders or URLs; exit code 1 when anything does."""
    from backdrop.stores.maintenance.diff import diff

    differences = diff(*(open_for_reading(store, cache, allow_partial=True) for store in (a, b)))
    print_result(differences)
    sys.exit(0 if differences["equal"] else 1)


@store_group.command("merge")
@click.argument("sources", type=path_type, nargs=-1, required=True)
@click.option("--out", type=path_type, required=True, help="The new store; the same command resumes.")
def store_merge(sources: tuple[Path, ...], out: Path) -> None:
    """Join stores of one identity, each with some of the parts, into one."""
    from backdrop.stores.maintenance.merge import merge

    store_id = merge(sources, out)
    print_result({"store": str(out), "store_id": store_id}, f"{out}: store {store_id}")


@store_group.command("recompute")
@click.argument("store", type=path_type)
@click.option("--where", default=None, metavar="CONDITION", help="The rows: status=decode-error, say.")
@click.option("--rows", default=None, metavar="NUMBERS", help="The rows by number, instead: 1,5-9.")
@click.option("--detector", default=None, cls=DetectorOption, help="The one that built the store.")
@click.option("--root", type=path_type, default=None, help="Where the images lie. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, required=True, help="The new store: a finished one never changes.")
@workers_option
@engine_option
def store_recompute(
    store: Path,
    where: str | None,
    rows: str | None,
    detector: str | None,
    root: Path | None,
    out: Path,
    workers: int | None,
    engine: str,
) -> None:
    """Build a new store with some rows computed anew and all others as they are; the same command resumes."""
    from backdrop.pipeline.build.recompute import parse_rows, recompute_store, rows_where
    from backdrop.stores.datasets import reopen_index
    from backdrop.stores.format.reader import open_store

    if (where is None) == (rows is None):
        raise UserError("give either --where CONDITION or --rows NUMBERS.")
    opened = open_store(store)
    chosen = rows_where(opened, where) if where is not None else parse_rows(str(rows), opened.num_rows)
    index = reopen_index(opened, root)
    detector = detector or default_detector()
    summary = recompute_store(store, index, detector, out, chosen, num_workers=workers, engine=engine)
    note_store(summary)
    print_result(summary)


@store_group.command("publish")
@click.argument("store", type=path_type)
@click.argument("url")
def store_publish(store: Path, url: str) -> None:
    """Copy a finished store to s3://bucket/prefix or file:///folder; the same command resumes.

    Credentials come from the usual AWS environment variables or profile, and are never written anywhere.
    """
    from backdrop.stores.sharing.remote import publish

    summary = publish(store, url)
    note(f"published: {summary['objects']:,} objects, {summary['bytes']:,} bytes sent, at {summary['url']}")
    print_result(summary)


@store_group.command("pull")
@click.argument("url")
@click.option("--out", type=path_type, required=True, help="The store's folder here.")
def store_pull(url: str, out: Path) -> None:
    """Copy a published store here, every file checked; the same command resumes."""
    from backdrop.stores.sharing.remote import pull

    summary = pull(url, out)
    note(f"pulled: {summary['objects']:,} objects, {summary['bytes']:,} bytes fetched, to {out}")
    print_result(summary)


@store_group.command("gc")
@click.argument("store", type=path_type)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--min-age", type=float, default=None, metavar="SECONDS", help="Younger leftovers stay. Default: 3600.")
def store_gc(store: Path, dry_run: bool, min_age: float | None) -> None:
    """Remove what killed builds, merges, pulls and exports left beside a store."""
    from backdrop.stores.maintenance.gc import gc

    given = {} if min_age is None else {"min_age_s": min_age}
    summary = gc(store, dry_run=dry_run, **given)
    removed, freed = ("would remove", "would free") if dry_run else ("removed", "freed")
    lines = [
        *(f"kept {item['path']}: {item['bytes']} bytes, touched {item['age_s']} s ago" for item in summary["kept"]),
        *(f"{removed} {item['path']}: {item['bytes']} bytes" for item in summary["removed"]),
        f"{freed} {summary['freed_bytes']} bytes",
    ]
    print_result(summary, "\n".join(lines))


@store_group.command("card")
@click.argument("store", type=path_type)
@click.option("--out", type=path_type, default=None, help="Default: <store>.croissant.json beside it.")
@click.option("--about", multiple=True, metavar="NAME=VALUE", help="What no store knows: license, url ...")
def store_card(store: Path, out: Path | None, about: tuple[str, ...]) -> None:
    """Write a Croissant card of a finished store: files with digests, fields, where it comes from."""
    from backdrop.settings.overrides import split_override
    from backdrop.stores.maintenance.card import write_card

    card = write_card(store, out, dict(split_override(text) for text in about))
    print_result({"card": str(card)}, f"card: {card}")


@store_group.command("view")
@click.argument("store", type=StoreOrUrl())
@click.option("--root", type=path_type, default=None, help="Where the images lie. Default: BACKDROP_DATA/<dataset>.")
@click.option("--rows", default=None, metavar="N|all", help="Write so many rows, spread evenly. Default: 2000.")
@click.option("--out", type=path_type, default=None, help="Default: <store>.gallery beside it, of a URL in --cache.")
@click.option("--serve", is_flag=True, help="Write nothing: serve all rows to the browsers of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --serve. Default: any free one.")
@allow_partial_option
@cache_option
def store_view(
    store: Path | str,
    root: Path | None,
    rows: str | None,
    out: Path | None,
    serve: bool,
    port: int,
    allow_partial: bool,
    cache: Path | None,
) -> None:
    """Write a page to browse a store's rows by eye, a folder that opens from a file; or serve it."""
    from backdrop.pipeline.gallery.folder import write_gallery
    from backdrop.pipeline.gallery.selection import choose_rows, parse_num_rows
    from backdrop.pipeline.gallery.server import serve_gallery
    from backdrop.pipeline.gallery.source_images import find_images

    if serve and (out is not None or rows is not None):
        raise UserError("--out and --rows are for a page that is written; --serve shows all rows and writes nothing.")
    if port and not serve:
        raise UserError("--port is for --serve.")
    num_rows = parse_num_rows(rows)
    opened = open_for_reading(store, cache, allow_partial=allow_partial)
    images = find_images(opened, root)
    if images.missing:
        note(f"without the source images: {images.missing}")
    if serve:
        serve_gallery(
            opened, images, port, lambda url: print_result({"gallery": url}, f"gallery: {url} (Ctrl-C ends it)")
        )
    else:
        page = write_gallery(opened, images, choose_rows(opened, num_rows), out or opened.path.with_suffix(".gallery"))
        print_result({"gallery": str(page)}, f"gallery: {page}")


@store_group.command("export")
@click.argument("store", type=StoreOrUrl())
@click.option(
    "--format", "format_name", type=click.Choice(["beton", *MASK_EXPORTS]), default="beton", show_default=True
)
@click.option("--root", type=path_type, default=None, help="beton: the images. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, default=None, help="Default: beside the store; of a URL the .beton in --cache.")
@click.option("--max-side-px", type=int, default=None, help="beton: larger images are scaled down. Default: 512.")
@cache_option
def store_export(
    store: Path | str,
    format_name: str,
    root: Path | None,
    out: Path | None,
    max_side_px: int | None,
    cache: Path | None,
) -> None:
    """Write the .beton that the loader reads (with the images), or the masks alone in another format."""
    is_for_cache = isinstance(store, str) and out is None
    if is_for_cache and (format_name in MASK_EXPORTS or max_side_px is not None):
        raise UserError("name a file with --out: of a URL only the .beton that pretrain reads has a place of its own.")
    opened = open_for_reading(store, cache)
    if format_name in MASK_EXPORTS:
        if root is not None or max_side_px is not None:
            raise UserError(f"--root and --max-side-px are for --format beton; {format_name} holds masks alone.")
        from backdrop.progress import stage_bar

        module, suffix = MASK_EXPORTS[format_name]
        with stage_bar(total=opened.num_rows, unit="row", stage=f"export {format_name}") as bar:
            export = import_module(f"backdrop.stores.exports.{module}").export
            written = export(opened, out or opened.path.with_suffix(suffix), progress=bar.update)
    elif is_for_cache:
        from backdrop.pipeline.beton.cached_beton import cached_beton

        written = cached_beton(opened, root)
    else:
        from backdrop.pipeline.beton.writer import export_beton
        from backdrop.stores.datasets import reopen_index

        index = reopen_index(opened, root)
        given = {} if max_side_px is None else {"max_side_px": max_side_px}
        written = export_beton(opened, index, out or opened.path.with_suffix(".beton"), **given)
    print_result({"format": format_name, "path": str(written)}, f"{format_name}: {written}")


# ----------------------------------------------------------------------------------------------------------- trainer


@main.command("pretrain")
@click.option("--method", type=MemberOf(methods.METHODS), required=True)
@click.option("--bg", type=MemberOf(backgrounds.BACKGROUNDS), default="none", show_default=True)
@click.option(
    "--cast", "with_cast", is_flag=True, help="Add the CAST loss to --method (--method cast is MoCo with it)."
)
@click.option("--dataset", type=DatasetName(), default=None, help="What --store is of. Default: imagenet.")
@click.option("--store", type=StoreOrUrl(), help="STORE.zarr, FILE.beton or a URL. Default: that of --dataset.")
@cache_option
@click.option("--root", type=path_type, default=None, help="For a URL: the images. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, default=None, help="The run's folder. Default: artifacts/<method>-<bg>.")
@click.option(
    "--recipe",
    type=MemberOf(recipes.RECIPES),
    default=None,
    help="Default: the paper's (no GPU: smoke).",
)
@click.option(
    "--backbone", default=None, help="resnet18 to 152, alexnet, drn_d_22 to 105, timm:NAME. Default: the recipe's."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe.")
@click.option("--resume", is_flag=True, help="Go on where the run in --out stopped.")
@click.option("--show-views", type=path_type, default=None, help="Train nothing: draw what would be fed on this page.")
@click.option("--views-epoch", type=click.IntRange(min=0), default=0, show_default=True, help="Of --show-views.")
def pretrain_command(
    method: str,
    bg: str,
    with_cast: bool,
    dataset: str | None,
    store: Path | str | None,
    cache: Path | None,
    root: Path | None,
    out: Path | None,
    recipe: str | None,
    backbone: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    show_views: Path | None,
    views_epoch: int,
) -> None:
    """Pretrain a backbone on a store. Several GPUs: torchrun --nproc-per-node N cli.py pretrain ..."""
    if store is None:
        dataset = dataset or "imagenet"
        store = store_path_of(dataset, "train")
        say_default("store", store, "the default of --store")
        if not store.exists():
            raise UserError(
                f"there is no store at {store}. Build it first: python cli.py build-store --dataset {dataset}, "
                "or name another with --store."
            )
    is_url = isinstance(store, str)
    if root is not None and not is_url:
        raise UserError("--root says where the images of a published store lie; a .beton holds them already.")
    if out is None and show_views is None:
        out = ARTIFACTS / f"{method}{'-cast' if with_cast else ''}-{bg}"
        say_default("run", out, "the default of --out")

    from backdrop.trainer.run.loop import default_recipe, pretrain

    if recipe is None:
        recipe, why = default_recipe(method)
        say_default("recipe", recipe, why)
    given = {
        "method": method,
        "background": bg,
        "with_cast": with_cast,
        "store": store,
        "dataset": dataset and dataset.partition(":")[0],  # what a store records of it
        "recipe": recipe,
        "overrides": [*([f"backbone={backbone}"] if backbone else []), *overrides],
        "cache": cache_folder(cache) if is_url else None,
        "root": root,
    }
    if show_views is not None:
        from backdrop.trainer.report.views_page import write_views_page

        with disk_errors(show_views):
            page = write_views_page(show_views, epoch=views_epoch, **given)
        print_result({"page": str(page)}, f"page: {page}")
        return
    with disk_errors(out):
        summary = pretrain(out=out, resume=resume, **given)
    if summary is not None:
        loss = "" if summary["loss"] is None else f", loss {summary['loss']:.4f}, {summary['images_per_s']:,} img/s"
        note(f"run: {summary['state']} at step {summary['steps']:,}{loss}, in {out}")
        print_result(summary)


@main.command("loader-bench")
@click.option("--store", type=StoreOrUrl(), required=True, help="STORE.zarr, FILE.beton or a URL.")
@cache_option
@click.option("--root", type=path_type, default=None, help="For a URL: the images. Default: BACKDROP_DATA/<dataset>.")
@click.option("--method", type=MemberOf(methods.METHODS), required=True)
@click.option("--bg", type=MemberOf(backgrounds.BACKGROUNDS), default="none", show_default=True)
@click.option("--cast", "with_cast", is_flag=True, help="With CAST's constraint on the crops.")
@click.option("--recipe", type=MemberOf(recipes.RECIPES), default=None, help="Default: the paper's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe.")
@click.option("--geometry", type=click.Choice(["host", "device"]), default="host", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=None, help="Default: the recipe's, at most 256.")
@click.option("--threads", type=click.IntRange(min=0), default=0, show_default=True, help="That decode; 0: all cores.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--gpu-images-per-s", type=click.FloatRange(min=0, min_open=True), default=None, help="Default: 1000.")
@click.option("--trace", "trace_path", type=path_type, default=None, help="Write a Chrome trace here.")
def loader_bench_command(
    store: Path | str,
    cache: Path | None,
    root: Path | None,
    method: str,
    bg: str,
    with_cast: bool,
    recipe: str | None,
    overrides: tuple[str, ...],
    geometry: str,
    batch_size: int | None,
    threads: int,
    seconds: float,
    gpu_images_per_s: float | None,
    trace_path: Path | None,
) -> None:
    """Measure the loader: images/s, where the time goes, memory, the cores that a GPU needs."""
    from backdrop.pipeline.loader.loader_bench import bench, table
    from backdrop.trainer.run.loop import find_beton, resolve_settings
    from backdrop.trainer.settings import method_module

    if recipe is None:
        recipe = method_module(method).DEFAULT_RECIPE
        say_default("recipe", recipe, "the method's own")
    settings = resolve_settings(recipe, method, bg, with_cast, overrides)
    if isinstance(store, str):
        from backdrop.pipeline.beton.cached_beton import cached_beton

        beton = cached_beton(open_for_reading(store, cache), root)
    else:
        beton = find_beton(store)
    if batch_size is None:
        batch_size = min(settings.batch_size, 256)
        say_default("batch size", batch_size, f"the recipe's is {settings.batch_size}, of all GPUs together")
    given = {} if gpu_images_per_s is None else {"gpu_images_per_s": gpu_images_per_s}
    result = bench(
        beton, settings.plan, batch_size=batch_size, seed=settings.seed, num_threads=threads, geometry=geometry,
        seconds=seconds, trace_path=trace_path, **given,
    )  # fmt: skip
    print_result(result, table(result))


@main.command("evaluate", epilog=f"TASK is one of: {', '.join([*evaluation.NAMES, 'all'])}.")
@click.argument("task", type=MemberOf(evaluation.EVALUATIONS, "all"), metavar="TASK")
@click.option("--recipe", type=click.Choice(["ryali", "cast"]), default="ryali", help="all: whose tables to fill in.")
@click.option("--run", type=path_type, default=None, help="Folder of a run of pretrain.")
@click.option("--weights", type=path_type, default=None, help="A file of weights, instead of --run.")
@click.option("--data", default=None, help="The data set's folder. Default: its place under BACKDROP_DATA.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="An option; with all, TASK.NAME=VALUE.")
@click.option("--strict", is_flag=True, help="Fail where anything about the data is odd.")
@click.option("--only", multiple=True, metavar="TASK", help="all: this evaluation; may be repeated.")
@click.option("--skip", multiple=True, metavar="TASK", help="all: not this evaluation; may be repeated.")
@click.option("--plan", "is_plan", is_flag=True, help="all: say what would be computed, and compute nothing.")
def evaluate_command(
    task: str,
    recipe: str,
    run: Path | None,
    weights: Path | None,
    data: str | None,
    overrides: tuple[str, ...],
    strict: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    is_plan: bool,
) -> None:
    """Score a backbone with one evaluation; or, with all, with those of a paper whose data lie in BACKDROP_DATA.

    all says first what it will compute, has the fine-tuned detectors last (days on eight GPUs), keeps every score in
    the run's folder, and goes on with the same command.
    """
    if (run is None) == (weights is None):
        raise UserError("give either --run FOLDER or --weights FILE, one of them.")
    given = run or weights
    assert given is not None
    if task != "all":
        if only or skip or is_plan:
            raise UserError("--only, --skip and --plan are for evaluate all.")
        from backdrop.trainer.evaluation.harness.evaluate import evaluate_run

        with disk_errors(given):
            summary = evaluate_run(task, given, data, overrides=overrides, strict=strict)
        note(f"{task}: " + ", ".join(f"{name} {value:.2f}" for name, value in summary["scores"].items()))
        print_result(summary)
        return
    if data:
        raise UserError("evaluate all looks in BACKDROP_DATA, where every data set has its folder: give no --data")
    from backdrop.trainer.evaluation.harness.evaluate_all import Choice, evaluate_all, plan, plan_table, table

    choice = Choice(only=only, skip=skip, overrides=overrides, strict=strict)
    steps = plan(given, recipe, choice)
    if is_plan:
        print_result([asdict(step) for step in steps], plan_table(steps))
        return
    note(plan_table(steps))
    with disk_errors(given):
        summary = evaluate_all(given, recipe, choice)
    note(table(summary))
    print_result(summary)


@main.command("export-detectron2")
@click.option("--run", type=path_type, default=None, help="Folder of a run of pretrain.")
@click.option("--weights", type=path_type, default=None, help="A file of weights, instead of --run.")
@click.option("--out", type=path_type, required=True, help="Folder for weights.pkl, config.yaml and command.sh.")
@click.option("--protocol", required=True, help="voc-ryali, coco-ryali, voc-cast or coco-cast: whose fine-tuning.")
@click.option("--method", default="moco", show_default=True, help="Whose rates, where the protocol has several.")
def export_detectron2_command(run: Path | None, weights: Path | None, out: Path, protocol: str, method: str) -> None:
    """Write a backbone, the settings and the command for fine-tuning in detectron2, as the papers did."""
    if (run is None) == (weights is None):
        raise UserError("give either --run FOLDER or --weights FILE, one of them.")
    from backdrop.trainer.detectron2_export import export_detectron2

    given = run or weights
    assert given is not None
    with disk_errors(out):
        files = [str(path) for path in export_detectron2(given, out, protocol=protocol, method=method)]
    print_result({"files": files}, "\n".join(files))


@main.command("report")
@click.argument("runs", type=path_type, nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--out", type=path_type, default=None, help="The page. Default, of a single run: RUN/report.html.")
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write a page about a run, or about several beside each other: settings, scores, curves, pictures, speed."""
    from backdrop.trainer.report.page import write_report

    with disk_errors(out or runs[0]):
        page = write_report(runs, out)
    print_result({"page": str(page)}, f"page: {page}")


# -------------------------------------------------------------------------------------------------------------- demo


# Several commands, so several results: no --json.
@main.command("demo", cls=click.Command, params=[quiet_option()])
@click.option("--out", type=path_type, default=ARTIFACTS / "demo", show_default=True, help="Where everything goes.")
def demo(out: Path) -> None:
    """Run the whole chain on the sample set: detector, store, training, score, page. The same command resumes."""
    detector, store, run = out / "detector", out / "sample-train.zarr", out / "moco-random"
    for words in (
        f"saliency train --dataset sample --preset tiny --out {detector}",
        f"build-store --dataset sample --detector {detector} --soft-maps --out {store}",
        f"store verify {store}",
        # Views that show something on the page, and half of the recipe's time.
        f"pretrain --method moco --bg random --store {store} --recipe smoke --set views.size_px=48 --set epochs=16 "
        f"--out {run} --resume",
        f"evaluate knn --run {run} --data sample",
        f"report {run}",
    ):
        if not is_quiet():
            click.secho(f"\n$ python cli.py {words}", bold=True, err=True)
        run_command(words.split())


def run_command(words: list[str]) -> None:
    """Run one command line in this process, as a user would type it."""
    try:
        main(words, standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise UserError(f"'python cli.py {' '.join(words)}' ended with exit code {end.code}.") from end


if __name__ == "__main__":
    main()
