"""Folders of runs from elsewhere: whatever one of their files says, it is shown as text, refused, or left out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.trainer.run import run_folder
from backdrop.trainer.run.run_folder import Origin, open_folder
from tests.material.hostile_cells import Allowed, cells, done, refused, run_cell
from tests.material.page_material import Checker
from tests.material.tiny_runs import tiny

SCRIPT = "<script>alert('x')</script>\"'&"
DAMAGED = refused(r"(run|settings)\.json")


def said(name: str, path: str, value: object) -> Callable[[Path], None]:
    """One value of a JSON file is another one. Args: path: of the value, with dots."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text())
        *above, last = path.split(".")
        place = content
        for part in above:
            place = place[int(part)] if part.isdecimal() else place[part]
        place[last] = value
        (run / name).write_text(json.dumps(content))

    return change


def holds(name: str, content: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(content)

    return change


STEP = '{"step": %s, "epoch": 0, "loss": %s}\n'
HEAD = b"metric,value,evaluation,recipe,seed,commit,store_id,facts\n"
# name -> what is done to the folder; what may come of it for those that read that file
RUNS: dict[str, tuple[Callable[[Path], None], Allowed]] = {
    **{
        f"{name} {kind}": (holds(f"{name}.json", content), DAMAGED)
        for name in ("run", "settings")
        for kind, content in {
            "empty": b"", "deep": b'{"a":' * 100_000, "list": b"[]", "null": b"null", "binary": bytes(range(256)),
            "page": b"<!DOCTYPE html>", "cut": b'{"method": "moco", ', "huge number": b'{"seed": ' + b"9" * 5000 + b"}",
            "without all": b"{}",
        }.items()
    },
    **{
        f"run.json {path} is {value!r:.20}": (said("run.json", path, value), DAMAGED)
        for path, value in [
            ("store_id", 3), ("store_id", None), ("seed", "x"), ("seed", None), ("recipe", []), ("commit", {}),
            ("beton", 7), ("beton", ["a"]), ("store", "x"), ("start_weights", "x"),
            ("start_weights", {"file": 3}), ("plugins", "x"), ("plugins", [3]), ("plugins", [{"set_name": "x"}]),
            ("plugins", [{"set_name": "../..", "member": "x", "source": "x", "is_file": True, "sha256": ""}]),
            ("expected", {"a": 1}), ("dataset", 9),
        ]
    },
    "run.json wants a plug-in": (
        said(
            "run.json", "plugins",
            [{"set_name": "methods", "member": "../evil", "source": "/tmp/evil.py", "is_file": True, "sha256": ""}],
        ),
        refused("evil"),
    ),
    **{
        f"settings.json {path} is {value!r:.20}": (said("settings.json", path, value), refused("settings.json"))
        for path, value in [
            ("method", "../../evil"), ("method", 3), ("method", None), ("backbone", 5),
            ("epochs", -1), ("epochs", "x"), ("epochs", 1e999), ("epochs", True),
            ("batch_size", None), ("batch_size", 0), ("seed", 2**70), ("seed", 1.5), ("views", []), ("views", "x"),
            ("views", 3), ("views.0.size_px", 10**9), ("views.0.size_px", -5),
            ("views.0.scale", [0.1]), ("views.0.scale", ["a", "b"]), ("views.0.scale", 3), ("optimiser", None),
            ("optimiser.lr", float("nan")), ("optimiser.lr", "0.1"), ("background", 3),
            ("algorithm", None), ("algorithm", {"a": 1}), ("unknown", 1),
            ("precision", "fp8"), ("log", 3),
        ]
    },
    **{
        f"metrics.jsonl {kind}": (holds("metrics.jsonl", content.encode()), allowed)
        for kind, content, allowed in [
            ("empty", "", done()),
            ("nothing but a cut line", '{"step": 0, "ep', done()),
            ("no JSON", "x\n", refused("metrics.jsonl")),
            ("lists", "[1]\n", refused("metrics.jsonl")),
            ("deep", '{"a":' * 100_000 + "\n", refused("metrics.jsonl")),
            ("without a step", '{"loss": 1}\n', refused("metrics.jsonl")),
            ("step of many digits", STEP % ("9" * 4000, 1), refused("metrics.jsonl")),
            ("loss of many digits", STEP % (0, "9" * 4000), refused("metrics.jsonl")),
            ("step that is a text", STEP % ('"a"', 1), refused("metrics.jsonl")),
            ("loss that is a text", STEP % (0, f'"{"<b>"}"'), done()),
            ("loss that is no number", STEP % (0, "NaN") + STEP % (1, "Infinity"), done()),
            ("loss beyond all numbers", STEP % (0, "1e308") + STEP % (1, "-1e308"), done()),
            ("steps that fall", STEP % (5, 1) + STEP % (2, 1), done()),
            ("negative steps", STEP % (-5, 1), done()),
        ]
    },
    **{
        f"results.csv {kind}": (holds("results.csv", content), allowed)
        for kind, content, allowed in [
            ("empty", b"", done()),
            ("other columns", b"a,b\n1,2\n", refused("results.csv")),
            ("binary", bytes(range(256)), refused("results.csv")),
            ("a value that is none", HEAD + b"top1,x,knn,smoke,0,c,s,{}\n", refused("results.csv")),
            ("too few columns", HEAD + b"top1,1\n", refused("results.csv")),
            ("too many columns", HEAD + b"top1,1,knn,smoke,0,c,s,{},4,5\n", refused("results.csv")),
            ("a name that leads out", HEAD + b"top1,1,../../../etc/x,smoke,0,c,s,{}\n", refused("results.csv")),
            ("no number", HEAD + b"top1,nan,knn,smoke,0,c,s,{}\n", done()),
            ("infinite", HEAD + b"top1,inf,knn,smoke,0,c,s,{}\n", done()),
            ("a script", HEAD + f'"{SCRIPT.replace(chr(34), chr(34) * 2)}",1,knn,smoke,0,c,s,{{}}\n'.encode(), done()),
            ("a long field", HEAD + b"a" * 200_000 + b",1,knn,smoke,0,c,s,{}\n", refused("results.csv")),
        ]
    },
    "a script in run.json": (said("run.json", "command", SCRIPT), done()),
    "a script in another field": (said("run.json", SCRIPT, SCRIPT), done()),
    "a script as its data set": (said("run.json", "dataset", SCRIPT), done()),
    "a script as what to expect": (said("run.json", "expected", SCRIPT), done()),
    **{
        f"{path} that is a text": (said("settings.json", path, value), done())
        for path, value in [("backbone", "timm:hf-hub:evil/evil"), ("background.name", SCRIPT), ("log", SCRIPT)]
    },
    "nothing wrong": (lambda run: None, done()),
}  # fmt: skip

COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "report": lambda run: ["report", run, "--out", run.parent / "page.html"],
    "compare": lambda run: ["report", run, run.parent / "other", "--out", run.parent / "page.html"],
    "evaluate": lambda run: ["evaluate", "knn", "--run", run, "--data", run.parent],
    "evaluate-all": lambda run: ["evaluate", "all", "--run", run, "--plan"],
    "export": lambda run: ["export-backbone", "--run", run, "--to", "timm", "--out", run.parent / "x.pth"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has not done a step, another beside it."""
    for name in ("run", "other"):
        origin = Origin(recipe="smoke", dataset="folder", beton="/nowhere/x.beton", command="pretrain")
        open_folder(tmp_path / name, tiny("moco"), origin=origin, store_id="0" * 64, resume=False)
    assert run_folder.read_run(tmp_path / "run")["seed"] == 0
    return tmp_path / "run"


@cells(RUNS, COMMANDS, {("a script in run.json", "report"), ("run deep", "report")})
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinite losses
def test_a_run_from_elsewhere_is_read_or_refused(given: str, command: str, run: Path) -> None:
    spoil, allowed = RUNS[given]
    spoil(run)
    is_page = command in ("report", "compare")
    if not is_page and (allowed.exit_code == 0 or given.startswith(("metrics", "results"))):
        # Neither reads what was spoilt; there is no checkpoint yet.
        allowed = refused("no checkpoint yet")
    run_cell(COMMANDS[command](run), allowed, run.parent)
    if is_page and allowed.exit_code == 0:
        html = (run.parent / "page.html").read_text()
        Checker(html)
        assert "<script>alert" not in html
        assert "nan" not in [part.split('"')[0] for part in html.split('points="')[1:]]
