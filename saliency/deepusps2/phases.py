"""The networks that DeepUSPS trains, in order: rounds of stage 1 per method, then stage 2."""

from dataclasses import dataclass

from backdrop.saliency.deepusps2.settings import DeepUspsSettings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One network's training: a round of stage 1, or stage 2."""

    number: int
    # from 0
    stage: int
    # 1 or 2
    method: str | None
    # whose maps a round of stage 1 refines (its array name); None in stage 2
    round: int
    # from 1; 1 in stage 2
    targets: tuple[str, ...]
    # arrays of the pseudo-label file
    thresholds: tuple[float, ...]
    # one per target
    beta_squared: float
    # of the F-loss
    learning_rate: float
    # of epoch 0
    num_epochs: int
    # of this phase
    batch_size: int
    # images per step

    @property
    def has_first_labels(self) -> bool:
        """Whether its targets are those of the detectors, not refined ones."""
        return self.stage == 1 and self.round == 1

    @property
    def title(self) -> str:
        """For the progress bar and the log."""
        return f"stage 1 {self.method} round {self.round}" if self.stage == 1 else "stage 2"


def phases(settings: DeepUspsSettings, first_thresholds: tuple[float, ...]) -> list[Phase]:
    """The networks to train, in order.

    Args:
        settings: of the training.
        first_thresholds: of the first pseudo-labels, one per method.
    """
    num_rounds = len(settings.stage1_learning_rates)
    rounds = [
        Phase(
            number=number * num_rounds + round_ - 1,
            stage=1,
            method=method,
            round=round_,
            targets=(f"classical/{method}" if round_ == 1 else f"refined/{method}",),
            thresholds=(first_threshold if round_ == 1 else settings.refined_threshold,),
            beta_squared=settings.stage1_beta_squared,
            learning_rate=learning_rate,
            num_epochs=settings.stage1_epochs,
            batch_size=settings.stage1_batch_size,
        )
        for number, (method, first_threshold) in enumerate(zip(settings.array_names, first_thresholds, strict=True))
        for round_, learning_rate in enumerate(settings.stage1_learning_rates, start=1)
    ]
    last = Phase(
        number=len(rounds),
        stage=2,
        method=None,
        round=1,
        targets=tuple(f"refined/{method}" for method in settings.array_names),
        thresholds=(settings.refined_threshold,) * len(settings.methods),
        beta_squared=settings.stage2_beta_squared,
        learning_rate=settings.stage2_learning_rate,
        num_epochs=settings.stage2_epochs,
        batch_size=settings.stage2_batch_size,
    )
    return [*rounds, last]


def decayed(learning_rate: float, epoch: int, num_epochs: int, power: float) -> float:
    """Polynomial decay per epoch: lr * (1 - epoch / num_epochs)^power.

    Args:
        learning_rate: of epoch 0.
        epoch: from 0.
        num_epochs: of the phase.
        power: 0.9 in the authors' code.
    """
    return learning_rate * (1 - epoch / num_epochs) ** power
