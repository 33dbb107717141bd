"""Parts computed by an array of Slurm jobs, submitted through submitit from a machine that can; each job runs the local
engine on whatever Slurm gave it: one process per GPU where parts use them, else one per core.

The number of workers is the number of jobs. What each asks for is said where sbatch itself looks: SBATCH_PARTITION,
SBATCH_TIMELIMIT, SBATCH_ACCOUNT, SBATCH_GPUS_PER_NODE, SBATCH_MEM_PER_NODE, SBATCH_EXCLUSIVE and so on, and
SBATCH_CPUS_PER_TASK, which it has no variable for. The folder this is started in, the Python, the data and the output
must be on a file system that all nodes see under the same path. There, in `slurm-jobs-*`, jobs and their starter meet:
one pickle says what to compute, and every process of a job tells in a journal, a line of JSON at a time, what it starts
and finishes. The folder goes when the run ends, unless there is something to read in it.

Jobs that end early (killed, out of time, pre-empted, their node lost) are submitted again with what they left; a part
that was at work then has failed once. Nothing here needs Slurm's accounting to be switched on. Should the starter be
killed, its jobs go on and their parts are kept; the same command computes what is missing.
"""

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from backdrop.errors import PartsFailed, UserError
from backdrop.stores.engines import RunPart, local
from backdrop.stores.engines._attempts import Attempts

try:
    import submitit
    from submitit.core.utils import FailedJobError
except ImportError as missing:
    raise UserError("--engine slurm needs the package submitit: pip install submitit") from missing

JOURNAL_SECONDS = 1.0  # between two looks at the journals, and between two lines on one part's rows
QUEUE_SECONDS = 15.0  # between two questions to Slurm, which serves others too
MISSED_TIMES = 4  # in a row, then a job is lost: as long as NFS may show an old listing of the journals
LEAVING_SECONDS = 60.0  # for jobs to end once they have nothing to do, or are cancelled: twice Slurm's usual KillWait
SPEC_FILE = "spec.pickle"
STATES_AT_THE_END = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


def run(
    run_part: RunPart,
    spec: object,
    parts: Iterable[int],
    *,
    num_workers: int | None,
    progress: Callable[[int], None],
    uses_gpu: bool = False,
) -> list[dict]:
    """Compute parts in `num_workers` jobs; arguments, result and errors are those of the local engine, except:

    Args:
        run_part: importable on all nodes; its receipts are JSON-able.
        spec: picklable; written once.
        parts: numbers of the parts to compute; every `num_workers`-th goes to one job.
        num_workers: jobs, at least 1.
        progress: as in the local engine.
        uses_gpu: whether parts are computed on a GPU where the job was given one.

    Raises:
        UserError: also when there is no Slurm here, or it refuses the jobs.
    """
    parts = list(parts)
    if num_workers is None or num_workers < 1:
        raise UserError(f"--engine slurm: {num_workers or 'no'} workers; give the number of jobs, 1 or more")
    absent = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
    if absent:
        raise UserError(f"--engine slurm: no {', '.join(absent)} here; start it where Slurm jobs can be submitted")
    if not parts:
        return []
    folder = Path(tempfile.mkdtemp(prefix="slurm-jobs-", dir=Path.cwd()))
    (folder / SPEC_FILE).write_bytes(pickle.dumps((run_part, spec, uses_gpu)))
    build = _Build(folder, progress)
    try:
        build.submit([parts[first::num_workers] for first in range(min(num_workers, len(parts)))])
        while build.is_at_work():
            time.sleep(JOURNAL_SECONDS)
            build.look()
    finally:
        build.leave(keeps_logs=bool(build.attempts.errors or build.attempts.failed_starts))
    return build.attempts.outcome(parts)


@dataclass(eq=False)
class _Share:
    """The parts of one job."""

    job_id: str
    log: Path
    parts: frozenset[int]
    started: set[int] = field(default_factory=set)
    times_missed: int = 0
    # how often in a row Slurm did not count the job among the living


@dataclass
class _Build:
    """What the starter knows."""

    folder: Path
    progress: Callable[[int], None]
    attempts: Attempts = field(default_factory=Attempts)
    shares: list[_Share] = field(default_factory=list)
    num_submitted: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    # part at work -> rows reported
    read_bytes: dict[Path, int] = field(default_factory=dict)
    # journal -> how much of it has been read
    asked_at: float = -QUEUE_SECONDS

    def submit(self, shares: list[list[int]]) -> None:
        """Submit jobs: an array where they are several."""
        executor = submitit.SlurmExecutor(self.folder / "jobs")
        cores = os.environ.get("SBATCH_CPUS_PER_TASK")
        executor.update_parameters(
            job_name="backdrop",
            time=None,  # the partition's own, where SBATCH_TIMELIMIT says nothing
            wckey=None,
            use_srun=False,  # a step of its own would get one core where sbatch was told of more
            stderr_to_stdout=True,
            array_parallelism=len(shares),
            additional_parameters={"no-requeue": True, **({"cpus-per-task": cores} if cores else {})},
            setup=[f"export PYTHONPATH={shlex.quote(os.pathsep.join(filter(os.path.isabs, sys.path)))}"],
        )
        numbers = range(self.num_submitted, self.num_submitted + len(shares))
        try:
            jobs = executor.submit_array(
                [partial(_compute, self.folder, *share) for share in zip(numbers, shares, strict=True)]
            )
        except FailedJobError as error:
            raise UserError(f"--engine slurm: sbatch refused the jobs: {error}") from error
        self.num_submitted += len(shares)
        self.shares += [
            _Share(job.job_id, job.paths.stdout, frozenset(parts)) for job, parts in zip(jobs, shares, strict=True)
        ]

    def is_at_work(self) -> bool:
        return not all(self._is_settled(part) for share in self.shares for part in share.parts)

    def _is_settled(self, part: int) -> bool:
        return part in self.attempts.receipts or part in self.attempts.errors

    def look(self) -> None:
        """Read what is new in the journals; from time to time ask Slurm which jobs are there, before reading."""
        states = None
        if time.monotonic() - self.asked_at >= QUEUE_SECONDS:
            states, self.asked_at = _states(), time.monotonic()
        self.look_into_journals()
        if states is not None:
            for share in [share for share in self.shares if not all(map(self._is_settled, share.parts))]:
                self._check(share, states)

    def look_into_journals(self) -> None:
        for kind, part, content in self._news():
            self._take(kind, part, content)

    def _news(self) -> Iterator[tuple[str, int, Any]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as journal:
                journal.seek(self.read_bytes.get(path, 0))
                new = journal.read()
            whole = new[: new.rfind(b"\n") + 1]  # a line may be half there, for now or for ever
            self.read_bytes[path] = self.read_bytes.get(path, 0) + len(whole)
            yield from map(json.loads, whole.splitlines())

    def _take(self, kind: str, part: int, content: Any) -> None:
        if kind == "user error":
            raise UserError(content)
        if self._is_settled(part):  # by another job, where this one had been given up too soon
            return
        if kind == "started":
            self._take_back(part)
            self.rows[part] = 0
            self.attempts.started()
            for share in self.shares:
                share.started |= share.parts & {part}
        elif kind == "rows":
            self.rows[part] = self.rows.get(part, 0) + content
            self.progress(content)
        elif kind == "done":
            self.rows.pop(part, None)
            self.attempts.done(part, content)
        else:
            self._take_back(part)
            self.attempts.give_up(part, content)

    def _take_back(self, part: int) -> None:
        rows = self.rows.pop(part, 0)
        if rows:
            self.progress(-rows)

    def _check(self, share: _Share, states: dict[str, str]) -> None:
        """Give up a job that has ended with work left; not at once, as its last lines may still be on their way."""
        state = states.get(share.job_id)
        share.times_missed = share.times_missed + 1 if state is None or state in STATES_AT_THE_END else 0
        if share.times_missed < MISSED_TIMES:
            return
        self.shares.remove(share)
        how = f"its job {share.job_id} ended too early ({state or 'unknown to Slurm'}); its log is {share.log}"
        if not share.started:
            self.attempts.failed_to_start(how)
        for part in share.parts & self.rows.keys():
            self._take_back(part)
            self.attempts.failed(part, how)
        left = sorted(part for part in share.parts if not self._is_settled(part))
        if left:
            self.submit([left])

    def leave(self, keeps_logs: bool) -> None:
        """Cancel what is left, wait until the jobs are gone, remove their folder."""
        ids = [share.job_id for share in self.shares]
        if ids and self.is_at_work():
            subprocess.run(["scancel", *ids], check=False)
        deadline = time.monotonic() + LEAVING_SECONDS
        while any((_states() or {}).get(job_id, "COMPLETED") not in STATES_AT_THE_END for job_id in ids):
            if time.monotonic() > deadline:
                return
            time.sleep(JOURNAL_SECONDS)
        if not keeps_logs:
            shutil.rmtree(self.folder, ignore_errors=True)  # a network's file system may hold on to a file just closed


def _states() -> dict[str, str] | None:
    """The state of each of the user's jobs that Slurm still knows; None where it does not answer now."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--user={os.getuid()}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        return None
    return dict(line.split() for line in asked.stdout.splitlines())


def _compute(folder: Path, number: int, parts: list[int]) -> None:
    """What a job does."""
    signal.signal(signal.SIGTERM, _end)
    run_part, spec, uses_gpu = pickle.loads((folder / SPEC_FILE).read_bytes())
    noted = _NotedPart(run_part, folder, number)
    try:
        local.run(noted, spec, parts, num_workers=None, progress=lambda num_rows: None, uses_gpu=uses_gpu)
    except PartsFailed as failure:
        for part, how in failure.reasons.items():
            noted.note("failed", part, how)
    except UserError as error:
        noted.note("user error", -1, str(error))


def _end(signal_number: int, frame: FrameType | None) -> None:
    """Leave by way of the `finally` clauses, which end the workers."""
    raise SystemExit(f"signal {signal_number}")


@dataclass(frozen=True)
class _NotedPart:
    """A `run_part` that keeps a journal: one per process, so that no two write to one file."""

    run_part: RunPart
    folder: Path
    number: int

    def __call__(self, spec: object, part: int, rows_done: Callable[[int], None]) -> dict:
        self.note("started", part, None)
        rows, noted_at = 0, time.monotonic()

        def count(num_rows: int) -> None:
            nonlocal rows, noted_at
            rows += num_rows
            if time.monotonic() - noted_at >= JOURNAL_SECONDS:
                self.note("rows", part, rows)
                rows, noted_at = 0, time.monotonic()

        receipt = self.run_part(spec, part, count)
        self.note("rows", part, rows)
        self.note("done", part, receipt)
        return receipt

    def note(self, kind: str, part: int, content: Any) -> None:
        with (self.folder / f"{self.number}-{os.getpid()}.jsonl").open("a") as journal:
            journal.write(json.dumps([kind, part, content]) + "\n")
