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
from backdrop.trainer.settings import RunSettings, method_module
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny

_SIMSIAM = '''
"""SimSiam (Chen and He 2021): projector, predictor, stop-gradient, negative cosine."""
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.trainer.downstream_settings import Downstream, LinearProtocol, Schedule
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.parts.method_defaults import any_labels as check_labels, whole_batch_only as check_parts
from backdrop.trainer.parts.pretraining_method import ParameterGroup, QueryKeyMethod

BACKDROP_SET = "methods"
DEFAULT_RECIPE, HAS_NEGATIVES, HAS_CAST, ALWAYS_CAST = "smoke", False, False, False
DOWNSTREAM = Downstream(  # section 4.1 of the paper, but for LARS
    linear=LinearProtocol(bn_mode="eval", schedule=Schedule(epochs=90, batch_size=4096, lr=0.02)),
    finetuning={},
    voc_detection=None,
)
SMOKE, SMOKE_LR = {"embedding_dim": 32, "bottleneck_dim": 16}, 0.05

@dataclass(frozen=True, kw_only=True)
class Settings:
    embedding_dim: int = 2048
    bottleneck_dim: int = 512

def view_plan(background="none"):
    return ViewPlan(views=(View(), View()), background=Background(name=background))

def check(settings, batch_size):
    pass

def expected_curve(settings):
    return "loss falls from 0 towards -1"

def _layer(inputs, outputs):
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]

class Method(QueryKeyMethod):
    has_unused_parameters = False

    def __init__(self, backbone, settings, *, seed, cast=None):
        super().__init__()
        width, narrow = settings.embedding_dim, settings.bottleneck_dim
        self.backbone = backbone
        last = [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)]
        self.projector = nn.Sequential(*_layer(backbone.num_features, width), *_layer(width, width), *last)
        self.predictor = nn.Sequential(*_layer(width, narrow), nn.Linear(narrow, width))

    def embed_query(self, pooled_BD):
        return self.predictor(self.projector(pooled_BD))

    def embed_key(self, image_B3HW):
        return self.projector(self.backbone(image_B3HW))

    def parameter_groups(self):  # section 4: the predictor's rate does not decay
        parts = {True: [], False: []}
        for name, parameter in self.named_parameters():
            parts[name.startswith("predictor.")].append((name, parameter))
        return [ParameterGroup(named=parts[False]), ParameterGroup(named=parts[True], follows_schedule=False)]

    def training_step(self, views):
        first_BE, second_BE = (self.embed_key(image) for image in views.images)
        similarity = sum(
            functional.cosine_similarity(self.predictor(query), key.detach()).mean() / 2
            for query, key in ((first_BE, second_BE), (second_BE, first_BE))
        )
        return {"loss": -similarity, "embedding_spread": embedding_spread(functional.normalize(first_BE, dim=1))}

    def after_step(self, step, num_steps):
        pass
'''
_MEAN_COLOUR = """
BACKDROP_SET = "backgrounds"
NEEDS_DONOR, HAS_NEGATIVE, PROBABILITY = True, False, 0.3

def replacement(donor_BCHW, level_BCHW):
    return donor_BCHW.mean(dim=(2, 3), keepdim=True)
"""


@pytest.fixture
def _given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    for name, text in (("simsiam", _SIMSIAM), ("mean_colour", _MEAN_COLOUR)):
        (tmp_path / f"{name}.py").write_text(text)
        use_plugin(tmp_path / f"{name}.py")


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


def test_no_plugin_no_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    with pytest.raises(UserError, match=r"unknown method 'simsiam'.*--plugin FILE\.py"):
        method_module("simsiam")
