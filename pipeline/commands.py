"""The commands that bring images and stores together: build-store, some of `store ...`; and doctor."""

import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backdrop.command_line import Command, print_result
from backdrop.command_options import MemberOf, path_type, root_option
from backdrop.errors import UserError, program
from backdrop.progress import note, note_default, warn
from backdrop.saliency.command_options import DetectorOption
from backdrop.saliency.default_detector import chosen_detector
from backdrop.stores.command_options import (
    StoreOrUrl,
    allow_partial_option,
    cache_option,
    dataset_type,
    refresh_index_option,
)
from backdrop.stores.engines import ENGINES
from backdrop.stores.exports import MASK_FORMATS

if TYPE_CHECKING:
    from backdrop.pipeline.build.foreground_size import Another
    from backdrop.stores.indexes.dataset_index import DatasetIndex

# A larger part of rows without a mask is said to be one.
_MANY_FAILED = 0.1

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes; with --engine slurm, jobs. Default: one per GPU where the detector uses them, else one per core.",
)
engine_option = click.option(
    "--engine", type=MemberOf(ENGINES), default="local", show_default=True, help="What runs them."
)


@click.command("build-store", cls=Command)
@click.option("--dataset", type=dataset_type, required=True)
@root_option("Where the data set lies.")
@click.option("--split", default="train", show_default=True)
@click.option("--detector", default=None, cls=DetectorOption, help="Default: artifacts/detector if there, else rbd.")
@click.option("--out", type=path_type, default=None, help="Default: artifacts/<dataset>-<split>.zarr")
@click.option(
    "--threshold", default=None, type=float, help="Foreground is saliency above this. Default: the detector's own."
)
@click.option(
    "--fill", type=click.Choice(["tile", "telea", "ns"]), default=None, help="Background fill. Default: tile."
)
@click.option("--background-px", type=click.IntRange(min=32), default=None, help="Longest side of a stored background.")
@click.option("--soft-maps/--no-soft-maps", default=False, help="Also keep 8-bit soft maps.")
@workers_option
@engine_option
@click.option("--beton/--no-beton", default=True, show_default=True, help="Also export the .beton the loader reads.")
@click.option("--from", "parent", type=path_type, default=None, help="Cut the soft maps of this store at --threshold.")
@click.option("--plan", is_flag=True, help="Only estimate parts, bytes and time, from a measured sample.")
@refresh_index_option
def build_store_command(
    dataset: str,
    root: Path | None,
    split: str,
    detector: str | None,
    out: Path | None,
    threshold: float | None,
    fill: str | None,
    background_px: int | None,
    soft_maps: bool,
    workers: int | None,
    engine: str,
    beton: bool,
    parent: Path | None,
    plan: bool,
) -> None:
    """Find and store the mask and the background of every image; the same command resumes."""
    from backdrop.pipeline.build.foreground_size import Another
    from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store, default_threshold
    from backdrop.pipeline.build.plan import plan_store
    from backdrop.pipeline.build.rethreshold import rethreshold_store
    from backdrop.stores.datasets import default_store, open_index
    from backdrop.stores.drawn_sample.first_use import draw_at_first_use

    is_of_the_parent = detector or fill or background_px or soft_maps or plan
    if parent is not None and (threshold is None or out is None or is_of_the_parent):
        raise UserError("--from STORE takes its settings from that store: give --threshold and --out, and no others.")
    draw_at_first_use(dataset, root)
    index = open_index(dataset, root=root, split=split)
    if out is None:
        out = default_store(dataset, split)
        note_default("store", out, "the default of --out")
    named = ["--dataset", dataset, *(["--root", str(root)] if root else []), "--split", split]
    if parent is not None and threshold is not None:
        summary = rethreshold_store(parent, index, out, threshold=threshold, num_workers=workers, engine=engine)
        again = Another(words=named, source=parent, out=out, tried=threshold, own=None)
    else:
        detector = chosen_detector(detector)
        own = default_threshold(index, detector)
        if threshold is None:
            note_default("threshold", own.value, own.source)
        tried = own.value if threshold is None else threshold
        found = [*named, "--detector", detector, *(["--fill", fill] if fill else [])]
        found += ["--background-px", str(background_px)] if background_px else []
        again = Another(words=found, source=None, out=out, tried=tried, own=own.value)
        of_backgrounds = {"fill": fill, "background_max_side_px": background_px}
        chosen: dict[str, Any] = {name: value for name, value in of_backgrounds.items() if value is not None}
        settings = BuildSettings(threshold=threshold, keeps_soft_maps=soft_maps, **chosen)
        if plan:
            planned = plan_store(index, detector, out, settings)
            _say_foreground(planned["foreground"], again)
            print_result(planned)
            return
        summary = build_store(index, detector, out, settings, num_workers=workers, engine=engine)
        again = replace(again, words=named, source=out) if soft_maps else again
    _note_store(summary)
    _say_foreground(summary["foreground"], again)
    if summary["store_id"] is None:
        note("this process's share is done; the last one to end finishes the store, and exports it")
    elif beton:
        summary["beton"] = _exported(index, summary, parent is None, engine, workers)
    print_result(summary, _outcome(summary, root))


def _outcome(summary: dict[str, Any], root: Path | None) -> str:
    """What a build came to, in a line, and the command that shows it. Args: root: that was given for the images."""
    if summary["store_id"] is None:
        return f"store: not finished yet, in {summary['store']}"
    empty = {status: summary["status"][status] for status in ("no-foreground", "all-foreground")}
    num_ok = summary["status"]["ok"]
    found = f"{num_ok:,} of {summary['num_rows']:,} images have a foreground and a background"
    found += "".join(f", {count:,} {status}" for status, count in empty.items() if count)
    page = ["store", "view", summary["store"], *(["--root", str(root)] if root else [])]
    return f"store: {found}; in {summary['store']}\nits page: {program()} {shlex.join(page)}"


def _exported(
    index: "DatasetIndex", summary: dict[str, Any], is_of_images: bool, engine: str, workers: int | None
) -> str:
    """Export the .beton of a store that has just been built, and say so.

    Args: summary: of the build. is_of_images: whether it read them. engine, workers: of the build.
    """
    from backdrop.pipeline.beton.writer import ExportWork, export_beton
    from backdrop.stores.format.reader import open_store

    is_all_new = is_of_images and summary["rows_built"] == summary["num_rows"]
    work = ExportWork(
        engine="local" if engine == "rank" else engine,  # its other processes have ended
        num_workers=workers,
        hashed_since=time.time() - summary["seconds"] if is_all_new else None,
    )
    beton = export_beton(open_store(summary["store"]), index, work=work)
    note(f"beton: {beton}")
    return str(beton)


def _note_store(summary: dict[str, Any]) -> None:
    """Say in a line what became of a store's rows."""
    statuses = ", ".join(f"{count:,} {label}" for label, count in summary["status"].items() if count)
    built = f"{summary['rows_built']:,} now, {summary['rows_per_second']:,} rows/s" if summary["rows_built"] else "kept"
    note(f"store: {summary['num_rows']:,} rows ({statuses}; {built}) in {summary['store']}")
    failed = sum(summary["status"][status] for status in ("decode-error", "mask-error"))
    if failed > _MANY_FAILED * summary["num_rows"]:
        words = f"{failed:,} of {summary['num_rows']:,} rows have no mask"
        warn(f"warning: {words}. The reason of each: {program()} store view {shlex.quote(summary['store'])}")


def _say_foreground(size: dict[str, Any], again: "Another") -> None:
    """Show how large the masks are, and warn where that cannot be right."""
    from backdrop.pipeline.build.foreground_size import histogram, warning

    note(histogram(size))
    if words := warning(size, again):
        warn(f"warning: {words}")


@click.command("recompute", cls=Command)
@click.argument("store", type=path_type)
@click.option("--where", default=None, metavar="CONDITION", help="The rows: status=decode-error, say.")
@click.option("--rows", default=None, metavar="NUMBERS|@FILE", help="Those instead: 1,5-9, or a file of keys.")
@click.option("--detector", default=None, cls=DetectorOption, help="The one that built the store.")
@root_option("Where the images lie.")
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
    from backdrop.pipeline.build.recompute import chosen_rows, recompute_store
    from backdrop.stores.datasets import reopen_index
    from backdrop.stores.format.reader import open_store

    opened = open_store(store)
    chosen = chosen_rows(opened, where=where, numbers=rows)
    index = reopen_index(opened, root)
    summary = recompute_store(store, index, chosen_detector(detector), out, chosen, num_workers=workers, engine=engine)
    _note_store(summary)
    print_result(summary, _outcome(summary, root))


@click.command("view", cls=Command)
@click.argument("store", type=StoreOrUrl())
@root_option("Where the images lie.")
@click.option("--rows", default=None, metavar="N|all", help="Write so many rows, spread evenly. Default: 2000.")
@click.option("--compare", type=StoreOrUrl(), help="Another detector's store: where it disagrees comes first.")
@click.option("--out", type=path_type, default=None, help="Default: <store>.gallery beside it, of a URL in --cache.")
@click.option("--overwrite", is_flag=True, help="Write it over another gallery that lies there.")
@click.option("--serve", is_flag=True, help="Write nothing: serve all rows to the browsers of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --serve. Default: any free one.")
@allow_partial_option
@cache_option
def store_view(
    store: Path | str,
    root: Path | None,
    rows: str | None,
    compare: Path | str | None,
    out: Path | None,
    overwrite: bool,
    serve: bool,
    port: int,
    allow_partial: bool,
    cache: Path | None,
) -> None:
    """Write a page to browse a store's rows by eye, a folder that opens from a file; or serve it.

    The rows whose masks are most likely wrong come first; b marks one as bad, for recompute and pretrain --without.
    """
    from backdrop.pipeline.gallery.folder import write_gallery
    from backdrop.pipeline.gallery.selection import choose_rows, parse_num_rows
    from backdrop.pipeline.gallery.server import serve_gallery
    from backdrop.pipeline.gallery.source_images import find_images
    from backdrop.stores.sharing.store_cache import open_for_reading

    if serve and (out is not None or rows is not None or overwrite):
        raise UserError(
            "--out, --rows and --overwrite are for a page that is written; --serve shows all rows and writes nothing."
        )
    if port and not serve:
        raise UserError("--port is for --serve.")
    num_rows = parse_num_rows(rows)
    opened = open_for_reading(store, cache, allow_partial=allow_partial)
    images = find_images(opened, root)
    if images.missing:
        note(f"without the source images: {images.missing}")
    other = None if compare is None else open_for_reading(compare, cache)
    if serve:
        serve_gallery(
            opened, images, port, lambda url: print_result({"gallery": url}, f"gallery: {url} (Ctrl-C ends it)"),
            other=other,
        )  # fmt: skip
    else:
        page = write_gallery(opened, images, choose_rows(opened, num_rows), out, other=other, overwrite=overwrite)
        print_result({"gallery": str(page)}, f"gallery: {page}")


@click.command("export", cls=Command)
@click.argument("store", type=StoreOrUrl())
@click.option(
    "--format", "format_name", type=click.Choice(["beton", *MASK_FORMATS]), default="beton", show_default=True
)
@root_option("beton, foregrounds: the images.")
@click.option("--out", type=path_type, default=None, help="Default: beside the store; of a URL the .beton in --cache.")
@click.option(
    "--max-side-px", type=int, default=None, help="beton: larger images are scaled down. Default: 512, coco 640."
)
@click.option(
    "--pixels", type=click.Choice(["jpeg", "yuv420"]), default=None,
    help="beton: yuv420 keeps planes, which need no decoding, for machines with memory for them; default jpeg.",
)  # fmt: skip
@click.option(
    "--background-side-px", type=click.IntRange(min=0), default=None,
    help="beton: longest side of the planes that backgrounds become; 0 = JPEGs as the store has them. Default: 288.",
)  # fmt: skip
@click.option(
    "--shard-rows", type=click.IntRange(min=1), default=None,
    help="beton: rows of a shard; of no more, it is one file. Default: 16384.",
)  # fmt: skip
@workers_option
@engine_option
@click.option("--overwrite", is_flag=True, help="Replace an export of another store or other settings that lies there.")
@cache_option
def store_export(
    store: Path | str,
    format_name: str,
    root: Path | None,
    out: Path | None,
    max_side_px: int | None,
    pixels: str | None,
    background_side_px: int | None,
    shard_rows: int | None,
    workers: int | None,
    engine: str,
    overwrite: bool,
    cache: Path | None,
) -> None:
    """Write the .beton that the loader reads (with the images), or the masks alone in another format.

    A .beton of many rows is a folder of shards, which workers write side by side; the same command goes on with the
    shards that are missing. Neither their number nor the engine changes a byte.
    """
    from backdrop.pipeline.export_store import BetonExport, export_store

    options = BetonExport(
        max_side_px=max_side_px,
        pixels=pixels,
        background_side_px=background_side_px,
        shard_rows=shard_rows,
        num_workers=workers,
        engine=engine,
    )
    written = export_store(store, format_name, out=out, root=root, options=options, cache=cache, overwrite=overwrite)
    print_result({"format": format_name, "path": str(written)}, f"{format_name}: {written}")


@click.command("verify", cls=Command)
@click.argument("store", type=path_type)
@click.option("--quick/--full", default=False, help="Sizes and counts only, or every byte and mask (the default).")
@allow_partial_option
def store_verify(store: Path, quick: bool, allow_partial: bool) -> None:
    """Check a store, or a .beton with all its shards; exit code 1 when something is wrong."""
    from backdrop.pipeline.beton import shards
    from backdrop.stores.maintenance.verify import Problem, verify

    if (whole := shards.whole_of(store)) or store.suffix == ".beton":
        from backdrop.pipeline.beton.verify import problems_of_beton

        problems = [Problem(None, None, what) for what in problems_of_beton(whole or store, full=not quick)]
    else:
        problems = verify(store, full=not quick, allow_partial=allow_partial)
    verdict = f"{store}: {len(problems)} problems" if problems else f"{store}: sound"
    result = {"store": str(store), "sound": not problems, "problems": [vars(problem) for problem in problems]}
    print_result(result, "\n".join([*map(str, problems), verdict]))
    sys.exit(1 if problems else 0)


@click.command("publish", cls=Command)
@click.argument("store", type=path_type)
@click.argument("url")
@click.option("--beton", is_flag=True, help="Also copy the .beton beside it, which holds the images.")
def store_publish(store: Path, url: str, beton: bool) -> None:
    """Copy a finished store to s3://bucket/prefix or file:///folder; the same command resumes.

    Credentials come from the usual AWS environment variables or profile, and are never written anywhere.
    """
    from backdrop.stores.sharing.remote import publish

    summary = publish(store, url)
    note(f"published: {summary['objects']:,} objects, {summary['bytes']:,} bytes sent, at {summary['url']}")
    if beton:
        from backdrop.pipeline.beton.published_beton import publish_beton

        summary["beton"] = sent = publish_beton(store, url)
        note(f"published its .beton: {sent['objects']:,} objects, {sent['bytes']:,} bytes sent")
    print_result(summary)


@click.command("pull", cls=Command)
@click.argument("url")
@click.option("--out", type=path_type, required=True, help="The store's folder here.")
@click.option("--beton/--no-beton", default=True, show_default=True, help="Also the .beton, where one is published.")
def store_pull(url: str, out: Path, beton: bool) -> None:
    """Copy a published store here, every file checked; the same command resumes."""
    from backdrop.stores.sharing.remote import pull

    summary = pull(url, out)
    note(f"pulled: {summary['objects']:,} objects, {summary['bytes']:,} bytes fetched, to {out}")
    if beton:
        from backdrop.pipeline.beton.published_beton import pull_beton

        place = out.with_suffix(".beton")
        if fetched := pull_beton(url, summary["store_id"], place):
            summary["beton"] = {"out": str(place), **fetched}
            note(f"pulled its .beton: {fetched['objects']:,} objects, {fetched['bytes']:,} bytes fetched, to {place}")
    print_result(summary)


@click.command("doctor", cls=Command)
def doctor_command() -> None:
    """Look at this machine and at BACKDROP_DATA, and say in a line each what to do; exit code 1 at a problem.

    A line begins with ok, with note (it works, with a limit worth knowing) or with problem. Of every data set some
    files are looked at and a few decoded; nothing is written.
    """
    from backdrop.pipeline.doctor.data_sets import data_sets
    from backdrop.pipeline.doctor.finding import lines_of
    from backdrop.pipeline.doctor.machine import machine

    findings = [*machine(), *data_sets()]
    print_result([asdict(finding) for finding in findings], lines_of(findings))
    sys.exit(1 if any(finding.state == "problem" for finding in findings) else 0)


@click.command("warm-up", cls=Command)
def warm_up_command() -> None:
    """Compile the loader's kernels, once on a machine; what starts then, also many processes at once, loads them."""
    from backdrop.pipeline.loader.warm_up import warm_up

    print_result(warm_up())
