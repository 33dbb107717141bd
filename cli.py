"""The command line: the root group over the commands of every floor, which are imported when they are needed."""

import os
import shlex
from pathlib import Path
from time import monotonic

import click

from backdrop import demo as demo_stages
from backdrop.command_line import Commands, quiet_option
from backdrop.command_options import path_type
from backdrop.data_folders import ARTIFACTS
from backdrop.errors import UserError, program
from backdrop.progress import is_quiet

# Torch's threads sleep between two operations instead of spinning: on a machine that others use too, spinning made a
# training step up to 17 times slower. Read when torch is imported, which the commands do; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Torch's large tensors on a CPU come in huge pages: without, page faults took half of the device stage's time there.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# Where each command is; its first sentence, which lists it, stands there.
SALIENCY = {
    "train": "backdrop.saliency.commands:saliency_train",
    "predict": "backdrop.saliency.commands:saliency_predict",
    "evaluate": "backdrop.saliency.commands:saliency_evaluate",
    "calibrate": "backdrop.saliency.commands:saliency_calibrate",
    "report": "backdrop.saliency.commands:saliency_report",
    "ladder": "backdrop.saliency.commands:saliency_ladder",
    "table1": "backdrop.saliency.commands:saliency_table1",
}
STORE = {
    "info": "backdrop.stores.commands:store_info",
    "verify": "backdrop.pipeline.commands:store_verify",
    "status": "backdrop.stores.commands:store_status",
    "diff": "backdrop.stores.commands:store_diff",
    "merge": "backdrop.stores.commands:store_merge",
    "publish": "backdrop.pipeline.commands:store_publish",
    "pull": "backdrop.pipeline.commands:store_pull",
    "gc": "backdrop.stores.commands:store_gc",
    "card": "backdrop.stores.commands:store_card",
    "recompute": "backdrop.pipeline.commands:store_recompute",
    "view": "backdrop.pipeline.commands:store_view",
    "export": "backdrop.pipeline.commands:store_export",
}
OTHERS = {
    "build-store": "backdrop.pipeline.commands:build_store_command",
    "doctor": "backdrop.pipeline.commands:doctor_command",
    "warm-up": "backdrop.pipeline.commands:warm_up_command",
    "pretrain": "backdrop.trainer.commands:pretrain_command",
    "loader-bench": "backdrop.trainer.commands:loader_bench_command",
    "evaluate": "backdrop.trainer.commands:evaluate_command",
    "export-backbone": "backdrop.trainer.commands:export_backbone_command",
    "report": "backdrop.trainer.commands:report_command",
    "reproduce": "backdrop.trainer.commands:reproduce_command",
}


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the versions that matter in a report of a fault, and end."""
    if not value or ctx.resilient_parsing:
        return
    from backdrop.pipeline.versions import versions

    click.echo("\n".join(f"{name:14} {version}" for name, version in versions().items()))
    ctx.exit()


@click.group(cls=Commands, places=OTHERS, context_settings={"help_option_names": ["-h", "--help"]})
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
    results alone; bars, the defaults taken and a line per stage go to standard error. Exit codes: 0 done, 1 'doctor' or
    'store verify' found problems or 'store diff' differences, 2 something given was wrong.
    """


@main.group("saliency", cls=Commands, places=SALIENCY)
def saliency_group() -> None:
    """Find foregrounds: train a detector, draw its maps, measure them."""


@main.group("store", cls=Commands, places=STORE)
def store_group() -> None:
    """Look into stores, check them, export them."""


# Several commands, so several results: no --json.
@main.command("demo", cls=click.Command, params=[quiet_option()])
@click.option("--out", type=path_type, default=ARTIFACTS / "demo", show_default=True, help="Where everything goes.")
def demo(out: Path) -> None:
    """Run the whole chain on the sample set: detector, store, training, score, page. The same command resumes."""
    of_demo = demo_stages.stages(out)
    for stage, heading in zip(of_demo, demo_stages.headings(of_demo, iter(monotonic, None)), strict=True):
        if not is_quiet():
            click.secho(f"\n{heading}\n$ {program()} {shlex.join(stage.words)}", bold=True, err=True)
        run_command(list(stage.words))
    click.echo(f"\n{demo_stages.outcome(out)}")


def run_command(words: list[str]) -> None:
    """Run one command line in this process, as a user would type it."""
    try:
        main(words, standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise UserError(f"'{program()} {shlex.join(words)}' ended with exit code {end.code}.") from end


if __name__ == "__main__":
    main()
