"""The commands `saliency ...`: train a detector, draw its maps, measure them."""

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from backdrop.command_line import Command, print_result
from backdrop.command_options import Decorator, path_type, root_option
from backdrop.data_folders import ARTIFACTS
from backdrop.disk_errors import disk_errors
from backdrop.errors import UserError, program
from backdrop.progress import note, note_default
from backdrop.saliency.command_options import DetectorOption
from backdrop.saliency.default_detector import CLASSICAL, DETECTOR_RUN
from backdrop.settings.given import given_settings
from backdrop.settings_options import settings_options, showed_or_saved
from backdrop.stores.command_options import dataset_type

detectors_option = click.option(
    "--detector", "detectors", multiple=True, default=(CLASSICAL,), show_default=True, cls=DetectorOption
)
size_option = click.option(
    "--size", type=click.IntRange(min=1), default=None, help="Score at squares of this side: 432 in Ryali."
)


def masks_option(*, required: bool) -> Decorator:
    """Return --masks: what detectors are scored against."""
    words = "Folder of true masks: PNG, foreground above 127; DIR:alpha and the like as for masks:DIR."
    return click.option("--masks", type=path_type, required=required, help=words)


@click.command("train", cls=Command)
@click.option("--dataset", type=dataset_type, default=None, help="A data set: its images, no labels. Default: msra-b.")
@click.option("--images", type=path_type, default=None, help="Any folder of images, instead of --dataset.")
@root_option("Where --dataset lies.")
@click.option("--out", type=path_type, default=DETECTOR_RUN, show_default=True, help="The run's folder.")
@click.option("--preset", default=None, help="Default: small, on a GPU medium; with weights paper. Or found: FOUND.")
@settings_options("Change one setting of the preset.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="DETECTOR",
    cls=DetectorOption,
    help="One more source of pseudo-labels.",
)
@click.option(
    "--backbone-weights",
    type=path_type,
    default=None,
    help="A run of pretrain --backbone drn_d_105; with found a published ViT.",
)
@click.option("--validation", type=path_type, default=None, help="Folder with images/ and masks/ to score on.")
@click.option("--seed", default=0, show_default=True)
def saliency_train(
    dataset: str | None,
    images: Path | None,
    root: Path | None,
    out: Path,
    preset: str | None,
    overrides: tuple[str, ...],
    config: Path | None,
    show_settings: bool,
    save_settings: Path | None,
    sources: tuple[str, ...],
    backbone_weights: Path | None,
    validation: Path | None,
    seed: int,
) -> None:
    """Train DeepUSPS2 or FOUND without labels; the same command resumes. On GPUs: torchrun --nproc-per-node N cli.py"""
    from backdrop.saliency.deepusps2.deepusps import default_preset
    from backdrop.saliency.training_presets import choose_training
    from backdrop.stores.datasets import open_index
    from backdrop.stores.drawn_sample.first_use import draw_at_first_use

    preset = preset or default_preset(has_weights=backbone_weights is not None)
    given = given_settings(config=config, overrides=overrides)
    settings, train = choose_training(preset, [one.override for one in given], sources)
    if showed_or_saved(settings, given, f"preset {preset}", show_settings=show_settings, save_settings=save_settings):
        return
    if dataset and images:
        raise UserError("--dataset and --images were both given. Give one of them.")
    if not dataset and not images:
        dataset = "msra-b"
        note_default("dataset", dataset, "the default of saliency train")
    draw_at_first_use(dataset, root)
    index = open_index("folder", root=images) if images else open_index(str(dataset), root=root)
    note_default("detector run", out, "use it with: build-store --detector")
    with disk_errors(out):
        summary = train(index, out, settings, seed=seed, backbone_weights=backbone_weights, validation=validation)
    if summary is not None:
        lines = [f"detector: trained on {summary['num_images']:,} images, loss {summary['final_loss']:.4f}, in {out}"]
        lines.append(f"its page: {program()} saliency report --run {shlex.quote(str(out))}")
        print_result(summary, "\n".join(lines))


@click.command("predict", cls=Command)
@click.option("--images", type=path_type, required=True, help="Folder of images, searched recursively.")
@click.option("--detector", default=CLASSICAL, show_default=True, cls=DetectorOption)
@click.option("--out", type=path_type, required=True, help="Folder for the 8-bit PNG maps.")
@click.option("--threshold", type=float, default=None, help="Write masks: 255 where saliency is greater.")
def saliency_predict(images: Path, detector: str, out: Path, threshold: float | None) -> None:
    """Write a soft saliency map for every image; the same command resumes."""
    from backdrop.saliency.inference import predict_folder

    with disk_errors(out):
        summary = predict_folder(images, detector, out, threshold=threshold)
    there, without = summary["num_skipped"], len(summary["problems"])
    note(f"maps: {summary['num_written']:,} written, {there:,} there before, {without:,} images without one, in {out}")
    print_result(summary)


@click.command("evaluate", cls=Command)
@click.option("--images", type=path_type, required=True, help="Folder of images.")
@masks_option(required=True)
@detectors_option
@size_option
def saliency_evaluate(images: Path, masks: Path, detectors: tuple[str, ...], size: int | None) -> None:
    """Measure detectors against true masks, in every protocol of the literature: tables, and JSON on stdout."""
    from backdrop.saliency.scoring.metrics import evaluate_folder, tables

    scores = {detector: evaluate_folder(images, masks, detector, size_px=size) for detector in detectors}
    note(tables(scores, size_px=size))
    print_result(scores[detectors[0]] if len(detectors) == 1 else scores)


@click.command("calibrate", cls=Command)
@click.option("--images", type=path_type, required=True, help="Folder of images.")
@masks_option(required=True)
@click.option("--detector", default=CLASSICAL, show_default=True, cls=DetectorOption)
def saliency_calibrate(images: Path, masks: Path, detector: str) -> None:
    """Find the threshold that cuts a detector's maps into the best masks: the curve of IoU and F, and the choice."""
    from backdrop.saliency.scoring.threshold_calibration import calibrate, table

    result = calibrate(images, masks, detector)
    print_result(result, table(result))


@click.command("report", cls=Command)
@click.option("--images", type=path_type, default=None, help="Folder of images to score on; with --masks.")
@masks_option(required=False)
@detectors_option
@click.option("--run", "runs", type=path_type, multiple=True, help="A run of saliency train, finished or not.")
@size_option
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


@click.command("ladder", cls=Command)
@click.option(
    "--on",
    "sets",
    type=path_type,
    multiple=True,
    help="Folder with images/ and masks/; may be repeated. Default: all below BACKDROP_DATA.",
)
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    cls=DetectorOption,
    help="May be repeated. Default: all classical ones, and artifacts/detector if there.",
)
@click.option(
    "--out", type=path_type, default=ARTIFACTS / "ladder", show_default=True, help="Folder of page and cells."
)
def saliency_ladder(sets: tuple[Path, ...], detectors: tuple[str, ...], out: Path) -> None:
    """Measure every detector on every set, beside published figures: one page, one table; the same command resumes."""
    from backdrop.saliency.ladder_page import text, write_ladder

    with disk_errors(out):
        cells, page = write_ladder(detectors, sets, out)
    note(f"page: {page}; as Markdown: {page.with_suffix('.md')}")
    print_result({"page": str(page), "cells": [asdict(cell) for cell in cells]}, text(cells))


@click.command("table1", cls=Command)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Trainings averaged: 0, 1, ...")
@click.option("--preset", default="paper", show_default=True, help="Of each training, as saliency train has them.")
@settings_options("Change one setting of the preset.")
@click.option("--backbone-weights", type=path_type, default=None, help="As saliency train: the paper's has some.")
@click.option(
    "--out", type=path_type, default=ARTIFACTS / "table1", show_default=True, help="Folder of detectors and scores."
)
def saliency_table1(
    seeds: int,
    preset: str,
    overrides: tuple[str, ...],
    config: Path | None,
    show_settings: bool,
    save_settings: Path | None,
    backbone_weights: Path | None,
    out: Path,
) -> None:
    """Train DeepUSPS2 of several seeds; average their scores on MSRA-B, ECSSD, DUT-OMRON; the same command resumes."""
    from backdrop.saliency.scoring.table_1 import table, table_1, test_sets
    from backdrop.saliency.training_presets import choose_training
    from backdrop.stores.datasets import open_index

    given = given_settings(config=config, overrides=overrides)
    settings, train = choose_training(preset, [one.override for one in given])
    if showed_or_saved(settings, given, f"preset {preset}", show_settings=show_settings, save_settings=save_settings):
        return
    sets, index = test_sets(), open_index("msra-b", root=None)

    def trained(seed: int) -> Path:
        train(index, out / f"seed-{seed}", settings, seed=seed, backbone_weights=backbone_weights)
        return out / f"seed-{seed}"

    with disk_errors(out):
        result = table_1(sets, out, range(seeds), trained)
    print_result(result, table(result))
