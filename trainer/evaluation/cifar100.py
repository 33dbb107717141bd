"""Linear classification of CIFAR-100 on frozen features: Ryali et al. 2021, A.8, Tables 17 and A26; see `_cifar`."""

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

DATA = "cifar100"
LAYOUT = "ROOT/cifar-100-python/{train,test}"
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fit a classifier of the 100 fine classes and score it: top1, top5, best_top1, best_top5."""
    folder = found_folder(data, "cifar-100-python", LAYOUT)
    train, test = (read_batches(folder, (name,), b"fine_labels", 100, LAYOUT) for name in ("train", "test"))
    return evaluate(subject, train, test, options, name="cifar100")
