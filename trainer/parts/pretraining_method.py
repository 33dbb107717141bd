"""What every method's networks are: a module with a backbone, that makes losses of views and says what is optimised.

Shapes: B batch, D features of the backbone, E embedding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from backdrop.pipeline.views.device_stage import Views
from backdrop.trainer.parts.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that the optimiser moves by one rate.

    named: name in the method and parameter. lr_factor: the group's rate over the run's, above 0. follows_schedule:
    whether its rate follows the run's warm-up and decay; otherwise it stays at its peak, as SimSiam's predictor does.
    """

    named: list[tuple[str, nn.Parameter]]
    lr_factor: float = 1.0
    follows_schedule: bool = True


class PretrainingMethod(nn.Module, ABC):
    """Networks and losses of a method. All that decides a run's future is in its parameters and persistent buffers."""

    backbone: Backbone
    """What is trained for later use."""

    @property
    @abstractmethod
    def has_unused_parameters(self) -> bool:
        """Whether a step may leave out some of the optimised parameters: several processes have to look for them."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what is optimised, every parameter in one group."""

    @abstractmethod
    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the losses of one batch, scalars by name.

        The one to minimise is "loss"; the others are recorded, and where images are embedded, `embedding_spread` is
        among them, which tells a collapse.
        """

    @abstractmethod
    def after_step(self, step: int, num_steps: int) -> None:
        """Do what follows the optimiser's step: momentum encoders, queues.

        Args: step: the step just done, from 0. num_steps: of the whole run.
        """

    def optimised_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of all groups, by name."""
        return [item for group in self.parameter_groups() for item in group.named]


class QueryKeyMethod(PretrainingMethod):
    """A method that compares a query with a key: what CAST, `evaluate grounding` and a run's page look into."""

    @abstractmethod
    def embed_query(self, pooled_BD: Tensor) -> Tensor:
        """Return what the loss compares, (B, E), of the backbone's pooled features (B, D)."""

    @abstractmethod
    def embed_key(self, image_B3HW: Tensor) -> Tensor:
        """Return what it is compared with, (B, E), of images, normalised."""
