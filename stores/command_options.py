"""Parameters of commands that open a store or a data set."""

from pathlib import Path

import click

from backdrop.command_options import MemberOf, path_type
from backdrop.stores.datasets import DATASETS
from backdrop.stores.sharing.place import place_of

# With its argument where it takes one: list:FILE.
dataset_type = MemberOf(DATASETS, takes_argument=True)


class StoreOrUrl(click.ParamType):
    """A store's folder, as a Path, or the URL of a published one, as a str."""

    name = "store or url"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Tell them apart."""
        return place_of(value)


cache_option = click.option(
    "--cache",
    type=path_type,
    default=None,
    envvar="BACKDROP_CACHE",
    show_envvar=True,
    help="For a URL: the folder that keeps what is fetched. Default: artifacts/cache.",
)
allow_partial_option = click.option("--allow-partial", is_flag=True, help="Also open a store that is half built.")


def _walk_anew(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """List data sets' folders anew until the command ends."""
    if value:
        from backdrop.stores.indexes.kept_trees import walked_anew

        ctx.with_resource(walked_anew())


refresh_index_option = click.option(
    "--refresh-index",
    is_flag=True,
    expose_value=False,
    callback=_walk_anew,
    help="Walk the images' folders anew, e.g. where files were written over under their own names.",
)
