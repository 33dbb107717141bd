"""A method and a background from files outside the project train and resume as the built-in ones do."""

from pathlib import Path

import pytest
import torch

from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE, use_plugin
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation.optimisers import peak_lr
from backdrop.trainer.recipes import smoke
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.checks import check
from backdrop.trainer.run.training import Training, start, take_step
from backdrop.trainer.settings import RunSettings
from tests.material.copied_plugins import copied
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny


@pytest.fixture
def _given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    for name in ("simsiam", "mean_colour"):
        use_plugin(copied(name, tmp_path))


@pytest.mark.usefixtures("_given")
def test_the_names_are_members() -> None:
    assert "simsiam" in METHODS.names()
    assert "mean_colour" in BACKGROUNDS.names()


@pytest.mark.usefixtures("_given")
def test_the_smoke_recipe_has_the_methods_own_numbers() -> None:
    settings = smoke.settings("simsiam", "mean_colour", False)
    assert (settings.algorithm.embedding_dim, settings.optimiser.lr) == (32, 0.05)
    assert settings.background.name == "mean_colour"


def _begin(settings: RunSettings) -> Training:
    check(settings)
    return start(settings, steps_per_epoch=4, device=torch.device("cpu"))


@pytest.mark.usefixtures("_given", "one_thread")
def test_it_trains_and_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    settings = tiny("simsiam", "mean_colour")
    stage = DeviceStage(settings.plan, device=torch.device("cpu"))
    batches = [stage(batch) for batch in MemoryLoader(settings.plan, num_rows=32, batch_size=8).epoch(0)]
    training = _begin(settings)
    before = training.method.backbone.conv1.weight.clone()
    training.step = 2
    losses, lr = take_step(training, batches[0])
    assert -1 <= losses["loss"] <= 1
    # SimSiam's predictor learns at the peak rate from the first step on.
    rates = {group["lr"] for group in training.optimiser.param_groups}
    assert rates == {lr, peak_lr(settings.optimiser, settings.batch_size)}
    assert len(rates) == 2
    assert not torch.equal(before, training.method.backbone.conv1.weight)

    path = checkpoint.save(tmp_path, training.method, training.optimiser, step=training.step, keep=1)
    fresh = _begin(settings)
    fresh.step = checkpoint.load(path, fresh.method, fresh.optimiser)
    expected, _ = take_step(training, batches[1])
    found, _ = take_step(fresh, batches[1])
    assert torch.equal(expected["loss"], found["loss"])


def test_networks_of_another_kind_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    file = copied("simsiam", tmp_path)
    file.write_text(file.read_text().replace("class Method(QueryKeyMethod)", "class Method(nn.Module)"))
    use_plugin(file)
    with pytest.raises(UserError, match="the Method of 'simsiam' is a Method: derive it from PretrainingMethod"):
        _begin(tiny("simsiam"))


def test_no_plugin_no_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    with pytest.raises(UserError, match=r"unknown method 'simsiam'.*--plugin FILE\.py"):
        METHODS.load("simsiam")
