"""The command line: each command parses, calls one function and prints. Heavy imports stay inside the commands."""

import json
import os
import sys
from pathlib import Path

import click

import pipeline.views.backgrounds
import saliency.classical
import stores.engines
import trainer.evaluation
import trainer.methods
import trainer.recipes
from stores.disk_errors import disk_errors
from stores.errors import UserError

# Torch's threads sleep between two operations instead of spinning: on a machine that others use too, spinning made a
# training step up to 17 times slower. Read when torch is imported, which the commands do; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ARTIFACTS = Path("artifacts")
DETECTOR_RUN = ARTIFACTS / "detector"
DATASETS = ("imagenet", "coco", "folder", "sample")

DETECTOR_HELP = (
    f"Finds the foreground: {', '.join(saliency.classical.NAMES)} (no training needed), the folder of a run of "
    "'saliency train' (RUN:no-crf and RUN:crf leave out or add the dense CRF), or masks:DIR (PNG masks made elsewhere)."
)


class Commands(click.Group):
    """Prints a user's mistake as one message with exit code 2; anything else is ours and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command, turning `UserError` into click's own kind of error."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            mistake = click.ClickException(str(error))
            mistake.exit_code = 2
            raise mistake from error


def say_default(name: str, value: object, why: str) -> None:
    """Print a default that was taken, so that nobody has to guess which detector, store or folder was used."""
    click.echo(f"{name}: {value} ({why})")


def print_json(summary: object, json_path: Path | None = None) -> None:
    """Print a result as JSON and, where asked, write it to a file."""
    text = json.dumps(summary, indent=2, default=str)
    click.echo(text)
    if json_path is not None:
        try:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(text + "\n")
        except OSError as error:
            raise UserError(f"--json {json_path} cannot be written: {error.strerror}. Give a writable file.") from error


path_type = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="backdrop-ssl", prog_name="backdrop")
def main() -> None:
    """Backdrop: find foregrounds, store masks and backgrounds, pretrain on them, score.

    Data sets are looked for under the folder named by the environment variable BACKDROP_DATA.
    """


# ---------------------------------------------------------------------------------------------------------- saliency


@main.group("saliency")
def saliency_group() -> None:
    """Find foregrounds: train a detector, draw its maps, measure them."""


@saliency_group.command("train")
@click.option("--dataset", default=None, help="Name of a data set: its images, no labels. Default: msra-b.")
@click.option("--images", type=path_type, default=None, help="Any folder of images, instead of --dataset.")
@click.option("--root", type=path_type, default=None, help="Where --dataset lies. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, default=DETECTOR_RUN, show_default=True, help="The run's folder.")
@click.option("--preset", default=None, help="paper, small or tiny. Default: paper on a GPU, else small.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Change one setting of the preset.")
@click.option("--source", "sources", multiple=True, metavar="DETECTOR", help="One more source of pseudo-labels.")
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
    from saliency.deepusps import default_preset, train
    from saliency.deepusps_settings import choose_settings
    from stores.dataset_index import open_index

    if dataset and images:
        raise UserError("--dataset and --images were both given. Give one of them.")
    if not dataset and not images:
        dataset = "msra-b"
        say_default("dataset", dataset, "the default of saliency train")
    if preset is None:
        preset, why = default_preset()
        say_default("preset", preset, why)
    settings = choose_settings(preset, overrides, sources)
    index = open_index("folder", root=images) if images else open_index(str(dataset), root=root)
    say_default("detector run", out, "use it with: build-store --detector")
    with disk_errors(out):
        summary = train(index, out, settings, seed=seed, backbone_weights=backbone_weights, validation=validation)
    if summary is not None:
        print_json(summary)


@saliency_group.command("predict")
@click.option("--images", type=path_type, required=True, help="Folder of images, searched recursively.")
@click.option("--detector", default="rbd", show_default=True, help=DETECTOR_HELP)
@click.option("--out", type=path_type, required=True, help="Folder for the 8-bit PNG maps.")
@click.option("--threshold", type=float, default=None, help="Write masks: 255 where saliency is greater. 0.9 in Ryali.")
def saliency_predict(images: Path, detector: str, out: Path, threshold: float | None) -> None:
    """Write a soft saliency map for every image; the same command resumes."""
    from saliency.inference import predict_folder

    with disk_errors(out):
        print_json(predict_folder(images, detector, out, threshold=threshold))


@saliency_group.command("evaluate")
@click.option("--images", type=path_type, required=True, help="Folder of images.")
@click.option("--masks", type=path_type, required=True, help="Folder of true masks: PNG, foreground above 127.")
@click.option("--detector", "detectors", multiple=True, default=("rbd",), show_default=True, help=DETECTOR_HELP)
@click.option("--size", type=click.IntRange(min=1), default=None, help="Score at squares of this side: 432 in Ryali.")
@click.option("--json", "json_path", type=path_type, default=None, help="Also write the result here.")
def saliency_evaluate(
    images: Path, masks: Path, detectors: tuple[str, ...], size: int | None, json_path: Path | None
) -> None:
    """Measure detectors against true masks: F in four protocols, MAE, IoU. A table, and JSON on standard output."""
    from saliency.metrics import evaluate_folder, table

    scores = {detector: evaluate_folder(images, masks, detector, size_px=size) for detector in detectors}
    click.echo(table(scores), err=True)
    print_json(scores[detectors[0]] if len(detectors) == 1 else scores, json_path)


# ------------------------------------------------------------------------------------------------------------ stores


@main.command("build-store")
@click.option("--dataset", type=click.Choice(DATASETS), required=True)
@click.option("--root", type=path_type, default=None, help="Where the data set lies. Default: BACKDROP_DATA/<dataset>.")
@click.option("--split", default="train", show_default=True)
@click.option("--detector", default=None, help=DETECTOR_HELP + " Default: artifacts/detector if there, else rbd.")
@click.option("--out", type=path_type, default=None, help="Default: artifacts/<dataset>-<split>.zarr")
@click.option("--threshold", default=None, type=float, help="Foreground is saliency above this. Default: 0.9.")
@click.option(
    "--fill", type=click.Choice(["tile", "telea", "ns"]), default=None, help="Background fill. Default: tile."
)
@click.option("--soft-maps/--no-soft-maps", default=False, help="Also keep 8-bit soft maps.")
@click.option("--workers", type=int, default=None, help="Processes. Default: one per core.")
@click.option("--engine", type=click.Choice(stores.engines.NAMES), default="local", show_default=True)
@click.option("--beton/--no-beton", default=True, show_default=True, help="Also export the .beton the loader reads.")
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
) -> None:
    """Find and store the mask and the background of every image; the same command resumes."""
    from pipeline.build.export_beton import export_beton
    from pipeline.build.masks_and_backgrounds import BuildSettings, build_store
    from stores.dataset_index import open_index

    index = open_index(dataset, root=root, split=split)
    if detector is None:
        detector = str(DETECTOR_RUN) if (DETECTOR_RUN / "detector.json").exists() else "rbd"
        say_default("detector", detector, "trained by saliency train" if detector != "rbd" else "none was trained yet")
    if out is None:
        out = store_path_of(dataset, split)
        say_default("store", out, "the default of --out")
    given = {"threshold": threshold, "fill": fill, "keeps_soft_maps": soft_maps}
    settings = BuildSettings(**{name: value for name, value in given.items() if value is not None})
    print_json(build_store(index, detector, out, settings, num_workers=workers or os.cpu_count() or 1, engine=engine))
    if beton:
        click.echo(f"beton: {export_beton(out, index, out.with_suffix('.beton'))}")


def store_path_of(dataset: str, split: str) -> Path:
    """Return where the store of a data set's split lies unless --out or --store says otherwise."""
    return ARTIFACTS / f"{dataset}-{split}.zarr"


@main.group("store")
def store_group() -> None:
    """Look into stores, check them, export them."""


allow_partial_option = click.option("--allow-partial", is_flag=True, help="Also open a store that is half built.")


@store_group.command("info")
@click.argument("store", type=path_type)
@allow_partial_option
def store_info(store: Path, allow_partial: bool) -> None:
    """Print a store's identity and what is in it."""
    from stores.reader import describe

    print_json(describe(store, allow_partial=allow_partial))


@store_group.command("verify")
@click.argument("store", type=path_type)
@click.option("--quick/--full", default=False, help="Sizes and counts only, or every byte and mask (the default).")
@allow_partial_option
def store_verify(store: Path, quick: bool, allow_partial: bool) -> None:
    """Check a store; exit code 1 when something is wrong."""
    from stores.verify import verify

    problems = verify(store, full=not quick, allow_partial=allow_partial)
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{store}: {len(problems)} problems" if problems else f"{store}: sound")
    sys.exit(1 if problems else 0)


@store_group.command("export")
@click.argument("store", type=path_type)
@click.option("--format", "format_name", type=click.Choice(["beton"]), default="beton", show_default=True)
@click.option("--root", type=path_type, default=None, help="Where the images lie. Default: BACKDROP_DATA/<dataset>.")
@click.option("--out", type=path_type, default=None, help="Default: beside the store.")
@click.option("--max-side-px", type=int, default=None, help="Larger images are scaled down. Default: 512.")
def store_export(store: Path, format_name: str, root: Path | None, out: Path | None, max_side_px: int | None) -> None:
    """Write a store and its images into one .beton, the file that the loader reads."""
    from pipeline.build.export_beton import export_beton
    from stores.dataset_index import open_index
    from stores.reader import open_store

    opened = open_store(store)
    index = open_index(opened.dataset, root=root, split=opened.split)
    given = {} if max_side_px is None else {"max_side_px": max_side_px}
    click.echo(f"{format_name}: {export_beton(store, index, out or store.with_suffix('.beton'), **given)}")


# ----------------------------------------------------------------------------------------------------------- trainer


@main.command("pretrain")
@click.option("--method", type=click.Choice(trainer.methods.NAMES), required=True)
@click.option("--bg", type=click.Choice(pipeline.views.backgrounds.NAMES), default="none", show_default=True)
@click.option(
    "--cast", "with_cast", is_flag=True, help="Add the CAST loss to --method (--method cast is MoCo with it)."
)
@click.option("--dataset", type=click.Choice(DATASETS), default="imagenet", show_default=True)
@click.option("--store", type=path_type, default=None, help="STORE.zarr or FILE.beton. Default: that of --dataset.")
@click.option("--out", type=path_type, default=None, help="The run's folder. Default: artifacts/<method>-<bg>.")
@click.option(
    "--recipe",
    type=click.Choice(trainer.recipes.NAMES),
    default=None,
    help="Default: the paper's (no GPU: smoke).",
)
@click.option("--backbone", default=None, help="resnet18 to 152, drn_d_22 to 105. Default: the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe.")
@click.option("--resume", is_flag=True, help="Go on where the run in --out stopped.")
def pretrain_command(
    method: str,
    bg: str,
    with_cast: bool,
    dataset: str,
    store: Path | None,
    out: Path | None,
    recipe: str | None,
    backbone: str | None,
    overrides: tuple[str, ...],
    resume: bool,
) -> None:
    """Pretrain a backbone on a store."""
    if store is None:
        store = store_path_of(dataset, "train")
        say_default("store", store, "the default of --store")
        if not store.exists():
            raise UserError(
                f"there is no store at {store}. Build it first: python cli.py build-store --dataset {dataset}, "
                "or name another with --store."
            )
    if out is None:
        out = ARTIFACTS / f"{method}{'-cast' if with_cast else ''}-{bg}"
        say_default("run", out, "the default of --out")

    from trainer.run.loop import default_recipe, pretrain

    if recipe is None:
        recipe, why = default_recipe(method)
        say_default("recipe", recipe, why)
    with disk_errors(out):
        summary = pretrain(
            method=method,
            background=bg,
            with_cast=with_cast,
            store=store,
            out=out,
            recipe=recipe,
            overrides=[*([f"backbone={backbone}"] if backbone else []), *overrides],
            resume=resume,
        )
    print_json(summary)


@main.command("evaluate")
@click.argument("task", type=click.Choice(trainer.evaluation.NAMES))
@click.option("--run", type=path_type, default=None, help="Folder of a run of pretrain.")
@click.option("--weights", type=path_type, default=None, help="A backbone as .safetensors, instead of --run.")
@click.option("--data", required=True, help="A folder that holds train/ and val/, or: sample.")
@click.option("--json", "json_path", type=path_type, default=None, help="Also write the result here.")
def evaluate_command(task: str, run: Path | None, weights: Path | None, data: str, json_path: Path | None) -> None:
    """Score a backbone."""
    if (run is None) == (weights is None):
        raise UserError("give either --run FOLDER or --weights FILE, one of them.")
    from trainer.evaluation._evaluate import evaluate_run

    with disk_errors(run or Path.cwd()):
        print_json(evaluate_run(task, run or weights, data), json_path)


@main.command("report")
@click.argument("run", type=path_type)
def report_command(run: Path) -> None:
    """Write a page about a run: curves, gallery, scores."""
    from trainer.report.page import write_report

    with disk_errors(run):
        click.echo(f"page: {write_report(run)}")


# -------------------------------------------------------------------------------------------------------------- demo


@main.command("demo")
@click.option("--out", type=path_type, default=ARTIFACTS / "demo", show_default=True, help="Where everything goes.")
def demo(out: Path) -> None:
    """Run the whole chain on the sample set: detector, store, training, score, page. The same command resumes."""
    detector, store, run = out / "detector", out / "sample-train.zarr", out / "moco-random"
    for words in (
        f"saliency train --dataset sample --preset tiny --out {detector}",
        f"build-store --dataset sample --detector {detector} --soft-maps --out {store}",
        f"store verify {store}",
        f"pretrain --method moco --bg random --store {store} --recipe smoke --out {run} --resume",
        f"evaluate knn --run {run} --data sample",
        f"report {run}",
    ):
        click.secho(f"\n$ python cli.py {words}", bold=True)
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
