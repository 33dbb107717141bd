"""Linear classification of CIFAR-10 on frozen features: Ryali et al. 2021, A.8, Tables 17 and A26; see `_cifar`."""

from pathlib import Path

from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.probing.cifar import Options, evaluate, found_folder, read_batches

__all__ = [
    "DATA",
    "LAYOUT",
    "SOURCE",
    "TAKES_DAYS",
    "Options",
    "facts_of_data",
    "needed_beside",
    "problems_of_data",
    "run",
]

DATA = "cifar10"
LAYOUT = "ROOT/cifar-10-batches-py/{data_batch_1,...,data_batch_5,test_batch}"
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fit a classifier and score it: top1, top5, best_top1, best_top5."""
    folder = found_folder(data, "cifar-10-batches-py", LAYOUT)
    names = tuple(f"data_batch_{number}" for number in range(1, 6))
    train, test = (read_batches(folder, files, b"labels", 10, LAYOUT) for files in (names, ("test_batch",)))
    return evaluate(subject, train, test, options, name="cifar10")
