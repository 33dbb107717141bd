"""SimSiam (Chen and He 2021): projector, predictor, stop-gradient, negative cosine."""

from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.trainer.downstream_settings import Downstream, LinearProtocol, Schedule
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.parts.method_defaults import any_labels, whole_batch_only
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


check_labels, check_parts = any_labels, whole_batch_only


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
