"""A Slurm of one node on this machine, of Debian's slurm-wlm and munge, for the tests that need the real one."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=10 State=UP
"""


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons, give the environment that the commands need, end the daemons."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if os.getuid() != 0 or any(shutil.which(name, path=path) is None for name in DAEMONS):
        pytest.skip("needs root and Debian's slurm-wlm and munge")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    names = {"host": socket.gethostname().split(".")[0], "cores": os.cpu_count(), "folder": folder}
    config.write_text(CONFIG.format(**names, port=free_port(), node_port=free_port()))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    munge = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    environment = {"SLURM_CONF": str(config)}
    processes = []
    try:
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            log = (folder / f"{command[0]}.out").open("wb")
            processes.append(
                subprocess.Popen(
                    command, env={**os.environ, "PATH": path, **environment}, stdout=log, stderr=subprocess.STDOUT
                )
            )
            log.close()
            time.sleep(0.5)
        wait_until_idle(environment)
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def wait_until_idle(environment: dict[str, str]) -> None:
    """Wait until the node takes jobs."""
    deadline = time.monotonic() + 60
    while True:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env={**os.environ, **environment}, capture_output=True, text=True
        )
        if asked.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, asked
        time.sleep(0.5)
