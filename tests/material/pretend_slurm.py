"""Stands in for the commands of Slurm: jobs are processes of this machine, started at once, known by their files.

Only what `stores.engines.slurm` uses, in the manner of Slurm 22.05; the slow tests have the real one.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "srun")


def install(folder: Path) -> Path:
    """Write the commands into a folder for PATH."""
    folder.mkdir()
    for name in COMMANDS:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} {folder / "jobs"} "$@"\n')
        command.chmod(0o755)
    (folder / "jobs").mkdir()
    return folder


def is_alive(pid: int) -> bool:
    """Whether a job's process is there; one that has ended but was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sbatch(jobs: Path, script: str) -> None:
    """Start a job, or an array of them."""
    text = Path(script).read_text()
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))
    number = 1 + len(list(jobs.glob("*.sh")))
    (jobs / f"{number}.sh").write_text(text)
    last = re.fullmatch(r"0-(\d+)%\d+", given.get("array", ""))
    for task in range(int(last[1]) + 1) if last else [None]:
        job_id = str(number) if task is None else f"{number}_{task}"
        place = {} if task is None else {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        log = given["output"].replace("%A", str(number)).replace("%a", str(task)).replace("%j", job_id)
        Path(log).parent.mkdir(exist_ok=True)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                ["bash", str(jobs / f"{number}.sh")],
                env={**os.environ, **place, "SLURM_JOB_ID": job_id},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (jobs / job_id).write_text(str(process.pid))
    print(f"Submitted batch job {number}")


def running(jobs: Path) -> dict[str, int]:
    """Ids of the jobs that are there, and their processes."""
    pids = {path.name: int(path.read_text()) for path in jobs.iterdir() if path.suffix != ".sh"}
    return {job_id: pid for job_id, pid in pids.items() if is_alive(pid)}


if __name__ == "__main__":
    command, jobs = sys.argv[1], Path(sys.argv[2])
    if command == "sbatch":
        sbatch(jobs, sys.argv[3])
    elif command == "squeue":
        for job_id in running(jobs):
            print(job_id, "RUNNING")
    elif command == "scancel":
        for job_id, pid in running(jobs).items():
            if job_id in sys.argv[3:]:
                os.killpg(pid, signal.SIGTERM)
