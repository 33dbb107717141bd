"""Says when a run's embeddings have become all but the same for every image: its loss may look fine then."""

from collections import deque

from backdrop.trainer.parts.embedding_spread import embedding_spread

# What a method's losses call it.
NAME = embedding_spread.__name__
# Of 1, see `embedding_spread`; on average over the latest steps.
LOWEST, NUM_STEPS = 0.05, 50


class CollapseWatch:
    """Looks at each recorded step from the second epoch on: networks fresh from the dice often begin that narrow."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=NUM_STEPS)
        self._is_said = False

    def add(self, record: dict[str, float]) -> str | None:
        """Take one step's numbers; returns what there is to say, once.

        Args: record: a line of metrics.jsonl; methods without embeddings have no `embedding_spread` in it.
        """
        if self._is_said or record["epoch"] < 1 or NAME not in record:
            return None
        self._latest.append(record[NAME])
        average = sum(self._latest) / len(self._latest)
        if len(self._latest) < NUM_STEPS or average >= LOWEST:
            return None
        self._is_said = True
        return (
            f"warning: collapse: over the last {NUM_STEPS} steps the embeddings of different images are all but the "
            f"same ({NAME} {average:.3f} at step {record['step']}; 1 = they point in all directions). What is learned "
            "from here on is worth little: start again with a lower optimiser.lr or a longer schedule.warmup_epochs, "
            "and see what 'expected' in run.json says of this method"
        )
