"""The commands that train and score: pretrain, loader-bench, evaluate, export-backbone, report, reproduce."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import click

from backdrop.command_line import Command, print_result
from backdrop.command_options import Decorator, MemberOf, overrides_option, path_type, root_option
from backdrop.data_folders import ARTIFACTS
from backdrop.disk_errors import disk_errors
from backdrop.errors import UserError, program
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.progress import note_default
from backdrop.settings.given import given_settings
from backdrop.settings_options import config_option, settings_options, showed_or_saved
from backdrop.stores.command_options import StoreOrUrl, cache_option, dataset_type, refresh_index_option
from backdrop.stores.datasets import built_default_store
from backdrop.stores.engines import ENGINES
from backdrop.trainer.backbone_names import completed as completed_backbones
from backdrop.trainer.choices import choices
from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.methods import METHODS
from backdrop.trainer.recipes import RECIPES
from backdrop.trainer.run.default_folder import default_run


def what_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a run is of, as --config may too: --method, --bg, --cast."""
    cast = click.option(
        "--cast", "with_cast", is_flag=True, help="Add the CAST loss to --method (--method cast is MoCo with it)."
    )
    background = click.option("--bg", type=MemberOf(BACKGROUNDS), default=None, help="Default: none.")
    method = click.option("--method", type=MemberOf(METHODS), default=None, help="Needed, unless --config names it.")
    return method(background(cast(command)))


def recipe_option(default: str) -> Decorator:
    """Return --recipe. Args: default: what is taken without it, for its help."""
    return click.option("--recipe", type=MemberOf(RECIPES), default=None, help=f"Default: {default}.")


def run_or_weights_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --run and --weights, of which it takes the one that was given, as `run_or_weights`."""

    @click.option("--run", type=path_type, default=None, help="Folder of a run of pretrain.")
    @click.option("--weights", type=path_type, default=None, help="A file of weights, instead of --run.")
    @wraps(command)
    def with_one(*, run: Path | None, weights: Path | None, **others: Any) -> None:
        if (run is None) == (weights is None) and not others.get("show_settings"):
            raise UserError("give either --run FOLDER or --weights FILE, one of them.")
        command(run_or_weights=run or weights, **others)

    return with_one


@click.command("pretrain", cls=Command)
@what_options
@click.option("--dataset", type=dataset_type, default=None, help="What --store is of. Default: imagenet.")
@click.option("--store", type=StoreOrUrl(), help="STORE.zarr, FILE.beton or a URL. Default: that of --dataset.")
@cache_option
@root_option("For a URL: the images.")
@click.option("--out", type=path_type, default=None, help="The run's folder. Default: artifacts/<method>-<bg>.")
@recipe_option("the paper's (no GPU: smoke)")
@click.option(
    "--backbone",
    default=None,
    shell_complete=completed_backbones,
    help="resnet18 to 152, vit_s16 and so on, alexnet, drn_d_22 to 105, drn_d_small, timm:NAME. Default: the recipe's.",
)
@click.option(
    "--start-weights", type=path_type, default=None, help="What the backbone begins with: published weights, or a run."
)
@click.option("--seed", type=int, default=None, help="Like --set seed=; so are the next four.")
@click.option("--epochs", type=int, default=None, help="Passes over the images.")
@click.option("--batch-size", type=int, default=None, help="Images a step, over all devices.")
@click.option("--lr", type=float, default=None, help="Peak rate for optimiser.lr_per_images images a step.")
@click.option("--without", default=None, metavar="ROWS|@FILE", help="Leave out 1,5-9, or a file of keys (store view).")
@click.option("--log", default=None, help="Tell csv, wandb or mlflow of the curves, too; several with commas.")
@settings_options("Change one setting of the recipe.", metavar="KEY=VALUE")
@click.option("--resume", is_flag=True, expose_value=False, help="Not needed: the same command goes on by itself.")
@click.option("--show-views", type=path_type, default=None, help="Train nothing: draw what would be fed on this page.")
@click.option("--views-epoch", type=click.IntRange(min=0), default=0, show_default=True, help="Of --show-views.")
def pretrain_command(
    method: str | None,
    bg: str | None,
    with_cast: bool,
    dataset: str | None,
    store: Path | str | None,
    cache: Path | None,
    root: Path | None,
    out: Path | None,
    recipe: str | None,
    backbone: str | None,
    start_weights: Path | None,
    seed: int | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    without: str | None,
    log: str | None,
    overrides: tuple[str, ...],
    config: Path | None,
    show_settings: bool,
    save_settings: Path | None,
    show_views: Path | None,
    views_epoch: int,
) -> None:
    """Pretrain a backbone on a store; the same command resumes.

    Several GPUs: torchrun --nproc-per-node N cli.py pretrain ... A run whose settings are other ones is refused.
    """
    from backdrop.pipeline.beton.beton_of_store import StoreSource
    from backdrop.trainer.run.computation import computation
    from backdrop.trainer.run.loop import RunRequest, default_recipe, pretrain

    changes = given_settings(config=config, overrides=overrides, options={
        "--backbone": ("backbone", backbone), "--seed": ("seed", seed), "--epochs": ("epochs", epochs),
        "--batch-size": ("batch_size", batch_size), "--lr": ("optimiser.lr", lr), "--log": ("log", log),
        "--without": ("without", without and _left_out(without, store, cache, root, dataset)),
    })  # fmt: skip
    chosen, changes = choices(changes, method=method, background=bg, with_cast=with_cast)
    recipe = recipe or default_recipe(chosen.method)
    request = RunRequest(
        method=chosen.method,
        background=chosen.background,
        with_cast=chosen.with_cast,
        recipe=recipe,
        overrides=[change.override for change in changes],
        start_weights=start_weights,
    )
    if showed_or_saved(
        request.resolved(), [*chosen.named, *changes, *request.followed()], f"recipe {recipe}",
        show_settings=show_settings, save_settings=save_settings, following=computation,
    ):  # fmt: skip
        return
    if store is None:
        dataset = dataset or "imagenet"
        store = built_default_store(dataset, "train")
    if out is None and show_views is None:
        out = default_run(chosen.method, chosen.background, chosen.with_cast)
    source = StoreSource(store=store, cache=cache, root=root, dataset=dataset)
    if show_views is not None:
        from backdrop.trainer.report.views_page import write_views_page

        with disk_errors(show_views):
            page = write_views_page(show_views, request, source, epoch=views_epoch)
        print_result({"page": str(page)}, f"page: {page}")
        return
    assert out is not None
    with disk_errors(out):
        summary = pretrain(request, source, out=out, resume=True)
    if summary is not None:
        loss = "" if summary["loss"] is None else f", loss {summary['loss']:.4f}, {summary['images_per_s']:,} img/s"
        lines = [f"run: {summary['state']} at step {summary['steps']:,}{loss}, in {out}"]
        lines.append(f"its page: {program()} report {shlex.quote(str(out))}")
        print_result(summary, "\n".join(lines))


def _left_out(
    without: str, store: Path | str | None, cache: Path | None, root: Path | None, dataset: str | None
) -> str:
    """The setting `without` of what --without was given: rows of the store that the other options say."""
    from backdrop.pipeline.beton.beton_of_store import StoreSource
    from backdrop.trainer.run.left_out_rows import left_out_by_name

    store = store or built_default_store(dataset or "imagenet", "train")
    return left_out_by_name(without, StoreSource(store=store, cache=cache, root=root, dataset=dataset))


@click.command("loader-bench", cls=Command)
@click.option("--store", type=StoreOrUrl(), required=True, help="STORE.zarr, FILE.beton or a URL.")
@cache_option
@root_option("For a URL: the images.")
@what_options
@recipe_option("the paper's")
@overrides_option("Change one setting of the recipe.", metavar="KEY=VALUE")
@config_option
@click.option("--geometry", type=click.Choice(["host", "device"]), default="host", show_default=True)
@click.option("--order", type=click.Choice(["random", "quasi-random"]), default="random", show_default=True)
@click.option("--cold", "is_cold", is_flag=True, help="Instead: KB and faults an image, of a file not in memory.")
@click.option("--batch-size", type=click.IntRange(min=1), default=None, help="Default: the recipe's, at most 256.")
@click.option("--threads", type=click.IntRange(min=0), default=0, show_default=True, help="That decode; 0: all cores.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--gpu-images-per-s", type=click.FloatRange(min=0, min_open=True), default=None, help="Default: 1000.")
@click.option("--trace", "trace_path", type=path_type, default=None, help="Write a Chrome trace here.")
def loader_bench_command(
    store: Path | str,
    cache: Path | None,
    root: Path | None,
    method: str | None,
    bg: str | None,
    with_cast: bool,
    recipe: str | None,
    overrides: tuple[str, ...],
    config: Path | None,
    geometry: str,
    order: str,
    is_cold: bool,
    batch_size: int | None,
    threads: int,
    seconds: float,
    gpu_images_per_s: float | None,
    trace_path: Path | None,
) -> None:
    """Measure the loader: images/s, where the time goes, memory, the cores that a GPU needs."""
    from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
    from backdrop.pipeline.loader import cold_bench
    from backdrop.pipeline.loader.loader_bench import bench, table
    from backdrop.pipeline.loader.loader_options import LoaderOptions
    from backdrop.trainer.run.loop import resolve_settings

    changes = given_settings(config=config, overrides=overrides)
    chosen, changes = choices(changes, method=method, background=bg, with_cast=with_cast)
    if recipe is None:
        recipe = METHODS.load(chosen.method).DEFAULT_RECIPE
        note_default("recipe", recipe, "the method's own")
    changed = [change.override for change in changes]
    settings = resolve_settings(recipe, chosen.method, chosen.background, chosen.with_cast, changed)
    beton = beton_of(StoreSource(store=store, cache=cache, root=root))
    if batch_size is None:
        batch_size = min(settings.batch_size, 256)
        note_default("batch size", batch_size, f"the recipe's is {settings.batch_size}, of all GPUs together")
    given = {} if gpu_images_per_s is None else {"gpu_images_per_s": gpu_images_per_s}
    options = LoaderOptions(
        batch_size=batch_size, seed=settings.seed, num_threads=threads, geometry=geometry, order=order
    )
    if is_cold and trace_path is not None:
        raise UserError("--trace shows where time goes; --cold counts what is read of the disk: give one of the two")
    if is_cold:
        found = cold_bench.cold_bench(beton, settings.plan, options, seconds=seconds)
        print_result(found, cold_bench.table(found))
        return
    result = bench(beton, settings.plan, options, seconds=seconds, trace_path=trace_path, **given)
    print_result(result, table(result))


@click.command("evaluate", cls=Command, epilog=f"TASK is one of: {', '.join([*EVALUATIONS.built_in(), 'all'])}.")
@click.argument("task", type=MemberOf(EVALUATIONS, "all"), metavar="TASK")
@click.option("--recipe", type=click.Choice(["ryali", "cast"]), default="ryali", help="all: whose tables to fill in.")
@run_or_weights_options
@click.option("--subject", type=click.Choice(["trained", "untrained"]), default="trained", show_default=True)
@click.option("--data", default=None, help="The data set's folder. Default: its place under BACKDROP_DATA.")
@settings_options("An option; with all, TASK.NAME=VALUE.")
@click.option("--strict", is_flag=True, help="Fail where anything about the data is odd.")
@click.option("--only", multiple=True, metavar="TASK", help="all: this evaluation; may be repeated.")
@click.option("--skip", multiple=True, metavar="TASK", help="all: not this evaluation; may be repeated.")
@click.option("--masks", default="", metavar="NAME", help="all: whose masks those of the run's folder are, e.g. u2net.")
@click.option("--plan", "is_plan", is_flag=True, help="all: say what would be computed, and compute nothing.")
@refresh_index_option
def evaluate_command(
    task: str,
    recipe: str,
    run_or_weights: Path,
    subject: str,
    data: str | None,
    overrides: tuple[str, ...],
    config: Path | None,
    show_settings: bool,
    save_settings: Path | None,
    strict: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    masks: str,
    is_plan: bool,
) -> None:
    """Score a backbone with one evaluation; or, with all, with those of a paper whose data lie in BACKDROP_DATA.

    --subject untrained scores the same network with weights drawn anew by the run's seed; its scores lie in
    RUN/untrained. all says first what it will compute, has the fine-tuned detectors last (days on eight GPUs), keeps
    every score in the run's folder, and goes on with the same command.

    Several GPUs, with the scores of one: torchrun --nproc-per-node N cli.py evaluate ...
    """
    from backdrop.ranks import is_first_process

    changes = given_settings(config=config, overrides=overrides)
    overrides, is_untrained = tuple(change.override for change in changes), subject == "untrained"
    if task != "all":
        if only or skip or masks or is_plan:
            raise UserError("--only, --skip, --masks and --plan are for evaluate all.")
        from backdrop.trainer.evaluation.harness.evaluate import chosen_options, evaluate_run, scores_text

        options = chosen_options(EVALUATIONS.load(task), overrides)
        if showed_or_saved(options, changes, task, show_settings=show_settings, save_settings=save_settings):
            return
        with disk_errors(run_or_weights):
            summary = evaluate_run(
                task, run_or_weights, data, overrides=overrides, strict=strict, is_untrained=is_untrained
            )
        if is_first_process():
            print_result(summary, scores_text(summary))
        return
    if show_settings or save_settings is not None:
        raise UserError("--show-settings and --save-config are of one evaluation: evaluate TASK --show-settings")
    if data:
        raise UserError("evaluate all looks in BACKDROP_DATA, where every data set has its folder: give no --data")
    from backdrop.trainer.evaluation.harness.evaluate_all import Choice, evaluate_all, plan, plan_table, table

    choice = Choice(only=only, skip=skip, overrides=overrides, strict=strict, is_untrained=is_untrained, masks=masks)
    if is_plan:
        steps = plan(run_or_weights, recipe, choice)
        print_result([asdict(step) for step in steps], plan_table(steps))
        return
    with disk_errors(run_or_weights):
        summary = evaluate_all(run_or_weights, recipe, choice)
    if is_first_process():
        print_result(summary, table(summary))


@click.command("export-backbone", cls=Command)
@run_or_weights_options
@click.option(
    "--to", required=True, type=click.Choice(["torchvision", "timm", "safetensors", "onnx", "detectron2"]),
    help="Who is to load it.",
)  # fmt: skip
@click.option(
    "--out", type=path_type, required=True,
    help="The file (.pth, .safetensors, .onnx). detectron2: a folder for weights.pkl, config.yaml and command.sh.",
)  # fmt: skip
@click.option(
    "--protocol", default=None, help="detectron2: voc-ryali, coco-ryali, voc-cast or coco-cast: whose fine-tuning."
)
@click.option("--method", default=None, help="detectron2: whose rates. Default: the run's.")
@click.option("--size-px", type=click.IntRange(min=8), default=224, show_default=True, help="onnx: side of an image.")
def export_backbone_command(
    run_or_weights: Path, to: str, out: Path, protocol: str | None, method: str | None, size_px: int
) -> None:
    """Write a backbone for torchvision, timm, safetensors, ONNX, or with the papers' settings for detectron2."""
    from backdrop.trainer.backbone_export import export_backbone

    paths, how = export_backbone(run_or_weights, to, out, protocol=protocol, method=method, size_px=size_px)
    files = [str(path) for path in paths]
    print_result({"files": files, "to_load": how}, "\n".join([*files, f"to load it: {how}"]))


@click.command("report", cls=Command)
@click.argument("runs", type=path_type, nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--out", type=path_type, default=None, help="The page. Default, of a single run: RUN/report.html.")
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write a page about a run, or about several beside each other: settings, scores, curves, pictures, speed."""
    from backdrop.trainer.report.page import write_report

    with disk_errors(out or runs[0]):
        page = write_report(runs, out)
    print_result({"page": str(page)}, f"page: {page}")


@click.command("reproduce", cls=Command)
@click.argument("paper", required=False, metavar="[ryali|cast]")
@click.option("--table", "tables", multiple=True, metavar="NUMBER", help="4, A6, F4, SC.2; may be repeated.")
@click.option("--rows", multiple=True, metavar="NAME", help="Rows whose name has this in it; may be repeated.")
@click.option("--scale", default="paper", show_default=True, help="paper, small (a night on two cores) or demo.")
@click.option("--seeds", type=click.IntRange(min=1), default=None, help="Runs of each row. Default: the row's.")
@overrides_option("Of every training, after the row's own: no row of the paper, unless it is for speed.")
@click.option("--out", type=path_type, default=ARTIFACTS / "tables", show_default=True, help="The result's folder.")
@click.option("--stores", type=path_type, default=ARTIFACTS, show_default=True, help="Has DATA-train-MASKS.zarr.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=None, help="Default: one per GPU or core. 0: none but this."
)
@click.option("--engine", type=MemberOf(ENGINES), default="local", show_default=True, help="What runs them.")
@click.option("--plan", "is_plan", is_flag=True, help="Only say what would be done, its cost, and what is missing.")
@click.option("--report", type=path_type, default=None, metavar="DIR", help="Compute nothing: write DIR's pages anew.")
def reproduce_command(
    paper: str | None,
    tables: tuple[str, ...],
    rows: tuple[str, ...],
    scale: str,
    seeds: int | None,
    overrides: tuple[str, ...],
    out: Path,
    stores: Path,
    workers: int | None,
    engine: str,
    is_plan: bool,
    report: Path | None,
) -> None:
    """Fill in a paper's tables: train what is missing, score it, compare; the same command goes on.

    A row is what trainer/paper_tables says of it; rows of one training share it, and runs go side by side. The paper's
    number stands beside ours where all settings are the row's.
    """
    from backdrop.trainer.reproduction import reproduce as reproduction
    from backdrop.trainer.reproduction.execution import Workers
    from backdrop.trainer.reproduction.jobs import Wanted
    from backdrop.trainer.reproduction.plan import plan_text

    if report is not None:
        result = reproduction.report(report)
        print_result({"page": str(result.page)}, f"page: {result.page}")
        return
    if paper is None:
        raise UserError("say whose tables: reproduce ryali or reproduce cast; or --report DIR")
    wanted = Wanted(paper=paper, tables=tables, rows=rows, scale=scale, seeds=seeds, settings=overrides)
    if is_plan:
        planned = reproduction.planned(wanted, out, stores)
        print_result(asdict(planned), plan_text(planned))
        return
    result = reproduction.reproduce(wanted, out, stores, Workers(engine=engine, number=workers))
    print_result({"page": str(result.page), "failed": result.failed}, f"{result.markdown}\npage: {result.page}")
