"""Parts computed by an array of Slurm jobs, submitted through submitit from a machine that can; each job runs the local
engine on whatever Slurm gave it: one process per GPU where parts use them, else one per core.

The number of workers is the number of jobs. What each asks for is said where sbatch itself looks: SBATCH_PARTITION,
SBATCH_TIMELIMIT, SBATCH_ACCOUNT, SBATCH_GPUS_PER_NODE, SBATCH_MEM_PER_NODE, SBATCH_EXCLUSIVE and so on, and
SBATCH_CPUS_PER_TASK, which it has no variable for. The folder this is started in, the Python, the data and the output
must be on a file system that all nodes see under the same path. There, in `slurm-jobs-*`, jobs and their starter meet:
one pickle says what to compute, a link for each part says which job has taken it, and every job tells in a journal, a
line of JSON at a time, what it starts and finishes. A process that is free takes the next part that nobody has, so a
slow node does fewer. The folder goes when the run ends, unless there is something to read in it.

Jobs that end early (killed, out of time, pre-empted, their node lost) are submitted again with what they left; a part
that was at work then has failed once. A part that takes many times as long as others did is given to another job as
well, and counts when the first of them has it: the bytes are the same. Nothing here needs Slurm's accounting to be
switched on. Should the starter be killed, its jobs go on and their parts are kept; the same command computes what is
missing.
"""

import json
import os
import pickle
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from backdrop.errors import PartsFailed, UserError
from backdrop.progress import warn
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
SLOW_TIMES = 10.0  # a part that takes so many times what others took (their median), and this at least, hangs
SLOW_SECONDS = 900.0
NUM_FELLOWS = 3  # that are done before one is called slow
LEAVING_SECONDS = 60.0  # for jobs to end once they have nothing to do, or are cancelled: twice Slurm's usual KillWait
SPEC_FILE = "spec.pickle"
CLAIMS = "claims"
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
        parts: numbers of the parts to compute; each job begins with every `num_workers`-th, then takes what is left.
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
    (folder / CLAIMS).mkdir()
    build = _Build(folder, progress, frozenset(parts))
    own = [parts[first::num_workers] for first in range(min(num_workers, len(parts)))]
    try:
        build.submit([[part for share in own[first:] + own[:first] for part in share] for first in range(len(own))])
        while build.is_at_work():
            time.sleep(JOURNAL_SECONDS)
            build.look()
    finally:
        build.leave(keeps_logs=bool(build.attempts.errors or build.attempts.failed_starts))
    return build.attempts.outcome(parts)


@dataclass(eq=False)
class _Share:
    """A job, and the parts that it may take."""

    number: int
    job_id: str
    log: Path
    parts: frozenset[int]
    started: set[int] = field(default_factory=set)
    times_missed: int = 0
    # how often in a row Slurm did not count the job among the living
    is_finished: bool = False
    # it said that nothing is left for it


@dataclass
class _AtWork:
    """A part that a job is at."""

    since: float
    rows: int = 0


@dataclass
class _Build:
    """What the starter knows."""

    folder: Path
    progress: Callable[[int], None]
    parts: frozenset[int] = frozenset()
    attempts: Attempts = field(default_factory=Attempts)
    shares: list[_Share] = field(default_factory=list)
    num_submitted: int = 0
    at_work: dict[tuple[int, int], _AtWork] = field(default_factory=dict)
    # number of the job and part
    seconds: list[float] = field(default_factory=list)
    # that parts took
    given_again: set[int] = field(default_factory=set)
    # parts that hang in one job and were given to another
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
            _Share(number, job.job_id, job.paths.stdout, frozenset(parts))
            for number, job, parts in zip(numbers, jobs, shares, strict=True)
        ]

    def is_at_work(self) -> bool:
        return not all(map(self._is_settled, self.parts))

    def _is_settled(self, part: int) -> bool:
        return part in self.attempts.receipts or part in self.attempts.errors

    def look(self) -> None:
        """Read what is new in the journals; from time to time ask Slurm which jobs are there, before reading."""
        states = None
        if time.monotonic() - self.asked_at >= QUEUE_SECONDS:
            states, self.asked_at = _states(), time.monotonic()
        self.look_into_journals()
        if states is not None:
            for share in [share for share in self.shares if not share.is_finished]:
                self._check(share, states)
        self._give_again_what_hangs()

    def look_into_journals(self) -> None:
        for number, (kind, part, content) in self._news():
            self._take(number, kind, part, content)

    def _news(self) -> Iterator[tuple[int, tuple[str, int, Any]]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as journal:
                journal.seek(self.read_bytes.get(path, 0))
                new = journal.read()
            whole = new[: new.rfind(b"\n") + 1]  # a line may be half there, for now or for ever
            self.read_bytes[path] = self.read_bytes.get(path, 0) + len(whole)
            for line in whole.splitlines():
                # A line that a kill cut off is followed by a whole one; what it was about fails with its process.
                with suppress(json.JSONDecodeError):
                    yield int(path.stem), json.loads(line)

    def _take(self, number: int, kind: str, part: int, content: Any) -> None:
        if kind == "user error":
            raise UserError(content)
        mine = [share for share in self.shares if share.number == number]
        if kind == "finished":
            for share in mine:
                share.is_finished = True
            return
        if self._is_settled(part):  # by another job, where this one had been given up too soon
            return
        if kind == "started":
            self._take_back(number, part)
            self.at_work[number, part] = _AtWork(since=time.monotonic())
            self.attempts.started()
            for share in mine:
                share.started.add(part)
        elif kind == "rows":
            # Of a job that was taken for lost, perhaps.
            self.at_work.setdefault((number, part), _AtWork(since=time.monotonic())).rows += content
            self.progress(content)
        elif kind == "done":
            if work := self.at_work.pop((number, part), None):
                self.seconds.append(time.monotonic() - work.since)
            self._take_back_of_all(part)
            self.attempts.done(part, content)
        else:
            self._take_back_of_all(part)
            self.attempts.give_up(part, content)

    def _take_back(self, number: int, part: int) -> None:
        before = self.at_work.pop((number, part), None)
        if before is not None and before.rows:
            self.progress(-before.rows)

    def _take_back_of_all(self, part: int) -> None:
        for number, other in list(self.at_work):
            if other == part:
                self._take_back(number, part)

    def _give_again_what_hangs(self) -> None:
        if len(self.seconds) < NUM_FELLOWS:
            return
        limit = max(SLOW_SECONDS, SLOW_TIMES * statistics.median(self.seconds))
        for (number, part), work in list(self.at_work.items()):
            taken = time.monotonic() - work.since
            if taken > limit and part not in self.given_again:
                warn(f"part {part} takes {taken:.0f} s, others took {statistics.median(self.seconds):.0f} s: its job "
                     "may hang, so another computes it as well")  # fmt: skip
                self.given_again.add(part)
                self._release([part], number)
                self.submit([[part]])

    def _release(self, parts: Iterable[int], number: int) -> None:
        """Let others take what a job has taken."""
        for part in parts:
            claim = self.folder / CLAIMS / str(part)
            if claim.is_symlink() and os.readlink(claim) == str(number):
                claim.unlink()

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
        for number, part in list(self.at_work):
            if number == share.number:
                self._take_back(number, part)
                self.attempts.failed(part, how)
        unsettled = sorted(part for part in share.parts if not self._is_settled(part))
        self._release(unsettled, share.number)
        left = [part for part in unsettled if not (self.folder / CLAIMS / str(part)).is_symlink()]
        if left:
            self.submit([left])

    def leave(self, keeps_logs: bool) -> None:
        """Cancel what is left, wait until the jobs are gone, remove their folder."""
        ids = [share.job_id for share in self.shares]
        if ids and (self.is_at_work() or self.given_again):
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
    noted.note("finished", -1, None)


def _end(signal_number: int, frame: FrameType | None) -> None:
    """Leave by way of the `finally` clauses, which end the workers."""
    raise SystemExit(f"signal {signal_number}")


@dataclass(frozen=True)
class _NotedPart:
    """A `run_part` that takes parts which no other job has, and keeps the job's journal."""

    run_part: RunPart
    folder: Path
    number: int

    def __call__(self, spec: object, part: int, rows_done: Callable[[int], None]) -> dict:
        if not self._is_taken(part):
            return {}
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

    def _is_taken(self, part: int) -> bool:
        """Take a part; whether it is this job's, as it also is where a process of it died at it."""
        claim = self.folder / CLAIMS / str(part)
        try:
            claim.symlink_to(str(self.number))
        except FileExistsError:
            return os.readlink(claim) == str(self.number)
        return True

    def note(self, kind: str, part: int, content: Any) -> None:
        """Add a line in one call, which processes of a machine do one after the other. It begins with an end of line:
        a kill may have cut off the one before."""
        line = f"\n{json.dumps([kind, part, content])}\n".encode()
        journal = os.open(self.folder / f"{self.number}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(journal, line)
        finally:
            os.close(journal)
