"""What a run says about itself: a score on the store's own rows, a collapse, and what losses to expect."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import backdrop.trainer.methods
from backdrop.errors import UserError
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.ranks import Ranks
from backdrop.stores.format.reader import open_store
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.online_probe import OnlineProbe, Settings, in_evaluation
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.run import collapse, loop, metrics_log, run_folder
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.collapse import CollapseWatch
from backdrop.trainer.run.expected_curve import expected_curve
from backdrop.trainer.run.training import Probe, train
from backdrop.trainer.settings import RunSettings, apply_overrides
from tests.material import small_scenes
from tests.material.interrupted_runs import CPU, NUM_ROWS, Interrupted, StoppingLoader, assert_same_end
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard"),
    pytest.mark.usefixtures("one_thread"),
]


# --------------------------------------------------------------------------------------------------------- which rows


class ColouredRows(MemoryLoader):
    """Rows whose class is their colour; only some of them, as `Loader(rows=...)`."""

    def __init__(self, plan: ViewPlan, rows: np.ndarray) -> None:
        super().__init__(plan, num_rows=len(rows), batch_size=len(rows))
        self._rows = rows

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator:
        for batch in super().epoch(epoch, first_batch=first_batch):
            row_B = torch.from_numpy(self._rows[batch.row_B.numpy()])
            batch.views[0].image_BHWC[:] = 60 * (row_B % 3)[:, None, None, None]
            yield replace(batch, row_B=row_B, label_B=row_B % 3)


@contextmanager
def coloured(plan: ViewPlan, rows: np.ndarray) -> Iterator[ColouredRows]:
    yield ColouredRows(plan, rows)


def probe_of(num_rows: int = 90, *, seed: int = 0, max_rows: int = 60) -> OnlineProbe:
    row_N = np.arange(num_rows)
    settings = Settings(every_epochs=1, max_rows=max_rows)
    return OnlineProbe(settings, row_N, row_N % 3, coloured, seed=seed, size_px=32)


def backbone() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone("resnet18", cifar_stem=True)


def test_rows_follow_from_the_seed_alone() -> None:
    first, again, other = probe_of(), probe_of(), probe_of(seed=1)
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert len(set(first.rows.tolist())) == 60
    assert len(first.held_out) == 12
    assert set(first.held_out.tolist()) < set(first.rows.tolist())


def test_rows_without_a_label_are_left_out() -> None:
    row_N, label_N = np.arange(100, 160), np.where(np.arange(60) < 30, -1, np.arange(60) % 2)
    probe = OnlineProbe(Settings(every_epochs=1), row_N, label_N, coloured, seed=0, size_px=32)
    assert sorted(probe.rows.tolist()) == list(range(130, 160))
    for labels in (np.full(60, -1), np.zeros(60, np.int64)):
        with pytest.raises(UserError, match=r"probe\.every_epochs=1 needs labels of two classes"):
            OnlineProbe(Settings(every_epochs=1), row_N, labels, coloured, seed=0, size_px=32)


def test_classes_that_differ_in_colour_are_told_apart() -> None:
    network = backbone().eval()
    assert probe_of().score(network, CPU) == {"knn_top1": 100.0}


def test_rows_of_a_file_arrive_once_each(tmp_path: Path) -> None:
    zarr, index = small_scenes.build(tmp_path)
    beton = export_beton(open_store(zarr), index, tmp_path / "small.beton")
    settings = apply_overrides(tiny("byol"), ["probe.every_epochs=1", "batch_size=2"])
    with Loader(beton, settings.plan, LoaderOptions(batch_size=2, seed=0, num_threads=1)) as loader:
        score = loop._online_probe(settings, loader, beton)
        labels = dict(zip(loader.rows.tolist(), loader.labels.tolist(), strict=True))
    assert score is not None
    row_N, label_N, feature_ND = score.__self__._features(backbone(), CPU)
    assert sorted(row_N.tolist()) == sorted(labels)
    assert [labels[row] for row in row_N.tolist()] == label_N.tolist()
    torch.testing.assert_close(feature_ND.norm(dim=1), torch.ones(len(row_N)))
    assert loop._online_probe(tiny("byol"), loader, beton) is None


# ------------------------------------------------------------------------------------------------------------ in a run


def run(settings: RunSettings, out: Path, probe: Probe | None, *, resume: bool = False, stop_at=None) -> None:
    loader = StoppingLoader(settings.plan, num_rows=NUM_ROWS, batch_size=settings.batch_size)
    loader.stop_at = stop_at
    origin, ranks = run_folder.Origin(recipe="smoke"), Ranks(device="cpu")
    train(settings, loader, out, origin=origin, resume=resume, ranks=ranks, probe=probe)


def scores(out: Path) -> dict[int, float]:
    records = metrics_log.read_metrics(out)
    return {record["step"]: record["knn_top1"] for record in records if "knn_top1" in record}


def test_a_score_changes_no_byte_of_the_run_and_is_the_same_after_a_resume(tmp_path: Path) -> None:
    settings = tiny("moco", checkpoint_steps=2)
    probed = replace(settings, probe=Settings(every_epochs=1, max_rows=60))
    run(settings, tmp_path / "plain", None)
    run(probed, tmp_path / "probed", probe_of().score)
    assert_same_end(tmp_path / "plain", tmp_path / "probed")
    assert list(scores(tmp_path / "probed")) == [2, 5]  # the last step of each epoch

    with pytest.raises(Interrupted):
        run(probed, tmp_path / "parts", probe_of().score, stop_at=(1, 2))
    run(probed, tmp_path / "parts", probe_of().score, resume=True)
    assert_same_end(tmp_path / "plain", tmp_path / "parts")
    assert scores(tmp_path / "parts") == scores(tmp_path / "probed")


def test_every_module_is_left_in_its_mode() -> None:
    network = backbone().train()
    network.bn1.eval()
    before = {name: module.training for name, module in network.named_modules()}
    with in_evaluation(network):
        assert not any(module.training for module in network.modules())
    assert {name: module.training for name, module in network.named_modules()} == before


@pytest.mark.parametrize("setting", ["probe.every_epochs=-1", "probe.max_rows=3"])
def test_impossible_probes_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=setting):
        check(apply_overrides(tiny("moco"), [setting]))


# ------------------------------------------------------------------------------------------------------------ collapse


def test_spread_is_1_in_all_directions_and_0_in_one() -> None:
    every_axis_BD = torch.cat([torch.eye(4), -3 * torch.eye(4)])
    assert embedding_spread(every_axis_BD).item() == pytest.approx(1.0)
    assert embedding_spread(torch.ones(5, 4) * torch.arange(1.0, 6.0)[:, None]).item() == pytest.approx(0.0, abs=1e-6)
    # (1, 0) and (0, 1): 1/2 from the mean in both dimensions, times sqrt(2).
    assert embedding_spread(torch.eye(2)).item() == pytest.approx(math.sqrt(2) / 2)


def records(spread: float, *, epoch: int, num: int) -> Iterator[dict[str, float]]:
    return ({"step": step, "epoch": epoch, collapse.NAME: spread} for step in range(num))


def test_a_collapse_is_said_once() -> None:
    watch = CollapseWatch()
    said = [watch.add(record) for record in records(0.01, epoch=1, num=3 * collapse.NUM_STEPS)]
    messages = [message for message in said if message is not None]
    assert said.index(messages[0]) == collapse.NUM_STEPS - 1
    assert len(messages) == 1
    assert "embedding_spread 0.010 at step 49" in messages[0]


@pytest.mark.parametrize(("spread", "epoch"), [(0.01, 0), (0.2, 1)])
def test_a_narrow_start_and_a_sound_run_are_no_collapse(spread: float, epoch: int) -> None:
    watch = CollapseWatch()
    assert not any(watch.add(record) for record in records(spread, epoch=epoch, num=3 * collapse.NUM_STEPS))
    assert watch.add({"step": 1, "epoch": 1}) is None


def test_a_collapsing_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "LOWEST", 2.0)  # every run is below
    monkeypatch.setattr(collapse, "NUM_STEPS", 3)
    run(tiny("byol"), tmp_path, None)
    said = capsys.readouterr().err
    assert said.count("warning: collapse") == 1
    assert 0 < metrics_log.read_metrics(tmp_path)[-1][collapse.NAME] <= 1


# ------------------------------------------------------------------------------------------------------ what to expect


@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("moco", f"{math.log(33):.2f}"),
        ("cast", "attention_loss"),
        ("byol", "4"),
        ("swav", f"{math.log(12):.2f}"),
        ("rotnet", "1.39"),
        ("supervised", f"{math.log(3):.2f}"),
    ],
)
def test_every_method_says_what_to_expect_in_its_own_numbers(method: str, number: str) -> None:
    assert number in expected_curve(tiny(method))


def test_no_method_is_left_out() -> None:
    for method in backdrop.trainer.methods.NAMES:
        assert len(expected_curve(tiny(method))) > 50


def test_it_is_said_at_the_start_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = apply_overrides(tiny("swav"), ["epochs=1", "algorithm.embedding_dim=128"])
    run(settings, tmp_path, None)
    note = expected_curve(settings)
    assert f"what to expect: {note}" in capsys.readouterr().err
    assert run_folder.read_run(tmp_path)["expected"] == note
    # It is so: the first loss lies near what it names.
    assert metrics_log.read_metrics(tmp_path)[0]["loss"] == pytest.approx(math.log(12), abs=0.8)
