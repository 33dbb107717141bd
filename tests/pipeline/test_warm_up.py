"""What `warm-up` compiles is what a training loads."""

from pathlib import Path

from click.testing import CliRunner

import cli
from backdrop.pipeline.beton.table_kernels import first_wrong, largest_sides, rows_that_lend, rows_with_mask
from backdrop.pipeline.loader._scene_kernels import fill_rows
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views import row_order
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan


def test_a_loader_compiles_nothing_after_a_warm_up(scenes: Path) -> None:
    result = CliRunner().invoke(cli.main, ["warm-up"])
    assert result.exit_code == 0
    assert '"kept_in"' in result.stdout
    loaded = (fill_rows, first_wrong, rows_with_mask, largest_sides, rows_that_lend, row_order._scatter)
    compiled = [list(kernel.signatures) for kernel in loaded]
    assert all(compiled)
    plan = ViewPlan(views=(View(size_px=32),) * 2, background=Background(name="recombine", probability=1.0))
    for geometry in ("host", "device"):
        options = LoaderOptions(batch_size=2, seed=0, num_threads=1, geometry=geometry)
        with Loader(scenes.with_suffix(".beton"), plan, options) as loader:
            next(iter(loader.epoch(0)))
    assert [kernel.signatures for kernel in loaded] == compiled
