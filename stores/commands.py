"""The commands `store ...` that need stores alone; those of images and of .beton too are in pipeline/commands.py."""

import sys
from pathlib import Path

import click

from backdrop.command_line import Command, print_result
from backdrop.command_options import path_type
from backdrop.stores.command_options import StoreOrUrl, allow_partial_option, cache_option


@click.command("info", cls=Command)
@click.argument("store", type=StoreOrUrl())
@allow_partial_option
@cache_option
def store_info(store: Path | str, allow_partial: bool, cache: Path | None) -> None:
    """Print a store's identity and what is in it; of s3://bucket/prefix or file:///folder what the manifest says."""
    from backdrop.stores.format.reader import describe
    from backdrop.stores.sharing.store_cache import open_for_reading

    print_result(describe(open_for_reading(store, cache, allow_partial=allow_partial)))


@click.command("status", cls=Command)
@click.argument("store", type=path_type)
def store_status(store: Path) -> None:
    """Print what of a store is built, what is missing or failed, and how long the rest takes."""
    from backdrop.stores.maintenance.build_status import status

    print_result(status(store))


@click.command("diff", cls=Command)
@click.argument("a", type=StoreOrUrl())
@click.argument("b", type=StoreOrUrl())
@cache_option
def store_diff(a: Path | str, b: Path | str, cache: Path | None) -> None:
    """Print what differs between two stores, folders or URLs; exit code 1 when anything does."""
    from backdrop.stores.maintenance.diff import diff
    from backdrop.stores.sharing.store_cache import open_for_reading

    differences = diff(*(open_for_reading(store, cache, allow_partial=True) for store in (a, b)))
    print_result(differences)
    sys.exit(0 if differences["equal"] else 1)


@click.command("merge", cls=Command)
@click.argument("sources", type=path_type, nargs=-1, required=True)
@click.option("--out", type=path_type, required=True, help="The new store; the same command resumes.")
def store_merge(sources: tuple[Path, ...], out: Path) -> None:
    """Join stores of one identity, each with some of the parts, into one."""
    from backdrop.stores.maintenance.merge import merge

    store_id = merge(sources, out)
    print_result({"store": str(out), "store_id": store_id}, f"{out}: store {store_id}")


@click.command("gc", cls=Command)
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


@click.command("card", cls=Command)
@click.argument("store", type=path_type)
@click.option("--out", type=path_type, default=None, help="Default: <store>.croissant.json beside it.")
@click.option("--about", multiple=True, metavar="NAME=VALUE", help="What no store knows: license, url ...")
def store_card(store: Path, out: Path | None, about: tuple[str, ...]) -> None:
    """Write a Croissant card of a finished store: files with digests, fields, where it comes from."""
    from backdrop.settings.overrides import split_override
    from backdrop.stores.maintenance.card import write_card

    card = write_card(store, out, dict(split_override(text) for text in about))
    print_result({"card": str(card)}, f"card: {card}")
