"""The Slurm script on two nodes of Debian's Slurm, both on loopback, with stand-ins for Ray and the training.

Ray's stand-in listens at the head's port; the training's prints its flags and writes a checkpoint on SIGTERM.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "srun", "scancel", "squeue")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all(shutil.which(name) for name in PROGRAMS) or os.geteuid() != 0,
        reason="Slurm is not installed, or this is not root: apt-get install slurmctld slurmd slurm-client",
    ),
]
RAY = """#!/usr/bin/env python3
import os, socket, sys, time
log = open(os.environ["QDET_ROOT"] + "/ray.log", "a")
print(os.environ["SLURMD_NODENAME"], os.getpid(), *sys.argv[1:], file=log, flush=True)
if "--head" in sys.argv:
    port = int([one for one in sys.argv if one.startswith("--port=")][0].partition("=")[2])
    server = socket.create_server(("127.0.0.1", port))
while True:
    time.sleep(1)
"""
TRAINING = """
import os, signal, sys, time
def leave(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("saving", flush=True)
    time.sleep(int(os.environ.get("SAVING", 0)))
    open("checkpoint", "a").write("x")
    print("checkpoint written", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
print("training", *sys.argv[1:], flush=True)
open("driver.pid", "w").write(str(os.getpid()))
deadline = time.time() + 100
while time.time() < deadline:
    if os.path.exists("done"):
        sys.exit(int(open("done").read()))
    time.sleep(0.1)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def write_config(folder: Path) -> None:
    """Write slurm.conf: two nodes of this machine, which trust each other (auth/none), and no cgroups."""
    host, user = socket.gethostname(), pwd.getpwuid(os.geteuid()).pw_name
    (folder / "state").mkdir()
    nodes = ""
    for name in ("one", "two"):
        (folder / name).mkdir()
        nodes += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2\n"
    (folder / "cgroup.conf").write_text("")
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
ReturnToService=2
KillWait=10
MinJobAge=600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
{nodes}PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
"""
    )


def until(happened: Callable[[], object], what: str, *, seconds: float = 60) -> object:
    """Wait until `happened` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := happened():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm's controller and two nodes; SLURM_CONF names their configuration."""
    folder = tmp_path_factory.mktemp("slurm")
    write_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        commands = [["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "one"], ["slurmd", "-D", "-N", "two"]]
        daemons = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
        try:
            until(lambda: ask("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", "two idle nodes")
            yield
        finally:
            for daemon in daemons:
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(30)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@dataclass
class Project:
    """A project folder whose `ray` and job are stand-ins."""

    folder: Path

    def submit(self, *flags: str, arguments: str = "job.py --train.workers 2") -> str:
        """Submit the script; return the job's number."""
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        command = ["sbatch", "--parsable", "--nodes", "2", *flags, "slurm.sh", *arguments.split()]
        return subprocess.check_output(
            command, cwd=self.folder, text=True, env=os.environ | {"PATH": path}
        ).strip()

    def log(self, job: str) -> str:
        file = self.folder / f"slurm-{job}.out"
        return file.read_text() if file.exists() else ""

    def wait_for(self, job: str, words: str, *, seconds: float = 60) -> str:
        """Wait for words in a job's log, and return the log."""
        until(lambda: words in self.log(job), f"{words!r} in slurm-{job}.out", seconds=seconds)
        return self.log(job)

    def started(self) -> list[list[str]]:
        """Return node, process and arguments of every `ray start`."""
        file = self.folder / "ray.log"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def project(slurm: None, tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ray").write_text(RAY)
    (tmp_path / "bin" / "ray").chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "job.py").write_text(TRAINING)
    shutil.copy(REPO / "cluster" / "slurm.sh", tmp_path / "slurm.sh")
    yield Project(tmp_path)
    subprocess.run(["scancel", "--name", "qdet"], check=False)
    until(lambda: not ask("squeue", "-h"), "an empty queue", seconds=90)


def state(job: str) -> dict[str, str]:
    """Return what Slurm says of a job, by name."""
    return dict(one.split("=", 1) for one in ask("scontrol", "show", "job", job).split() if "=" in one)


def test_a_run_spans_both_nodes_and_ends_with_its_exit_code(project: Project):
    job = project.submit()
    log = project.wait_for(job, "training")
    until(lambda: len(project.started()) == 2, "Ray on both nodes")
    assert {node for node, *_ in project.started()} == {"one", "two"}
    assert (
        f"training --train.workers 2 --store.run slurm-{job} --store.resume auto --ray-address 127.0.0.1:"
        in log
    )
    (token,) = (project.folder / ".qdet").glob("*.token")
    assert token.stat().st_mode & 0o77 == 0
    (project.folder / "done").write_text("3")
    until(lambda: state(job)["JobState"] == "FAILED", f"the end: {state(job)}")
    assert state(job)["ExitCode"] == "3:0"
    assert not [*(project.folder / ".qdet").glob("*.token")]
    assert not ask("pgrep", "-f", f"{project.folder}/bin/ray")


def test_a_dead_head_is_noticed_and_the_job_queued_again(project: Project):
    job = project.submit()
    project.wait_for(job, "training")
    (head,) = [int(process) for _, process, *words in project.started() if "--head" in words]
    os.kill(head, signal.SIGKILL)
    project.wait_for(job, "the Ray head on one is gone", seconds=10)
    log = project.wait_for(job, "the head was lost: queued again, restart 1", seconds=30)
    assert "checkpoint written" in log
    until(lambda: state(job)["Restarts"] == "1", f"a requeue: {state(job)}")


def start_now(job: str) -> bool:
    """Let a requeued job start at once, where Slurm would wait for two minutes."""
    if "BeginTime" in ask("squeue", "-h", "-j", job, "-o", "%r"):
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    return True


def test_before_the_time_limit_a_checkpoint_is_written_and_the_run_resumes(project: Project):
    job = project.submit(arguments="job.py --store.run night")
    project.wait_for(job, "training --store.run night --ray-address")
    ask("scancel", "--batch", "--signal", "USR1", job)  # what `--signal=B:USR1@120` sends
    log = project.wait_for(job, "the time limit is near: queued again, restart 1 of at most 50")
    assert log.index("checkpoint written") < log.index("queued again")
    until(lambda: state(job)["Restarts"] == "1", f"a requeue: {state(job)}")
    resumed = "training --store.run night --store.resume auto --ray-address"
    until(lambda: start_now(job) and resumed in project.log(job), "a resumed run")


def test_scancel_ends_everything_within_slurm_s_wait(project: Project):
    job = project.submit()
    project.wait_for(job, "training")
    ask("scancel", job)
    until(lambda: not ask("squeue", "-h"), f"an empty queue: {state(job)}", seconds=40)
    assert state(job)["JobState"] == "CANCELLED"
    assert not ask("pgrep", "-f", f"{project.folder}/bin/ray")


def test_a_job_that_is_cancelled_while_it_saves_is_not_queued_again(project: Project):
    job = project.submit("--export", "ALL,SAVING=4")
    project.wait_for(job, "training")
    ask("scancel", "--batch", "--signal", "USR1", job)
    project.wait_for(job, "saving")
    ask("scancel", job)
    until(lambda: not ask("squeue", "-h"), "an empty queue", seconds=40)
    assert "checkpoint written" in project.log(job)
    assert "queued again" not in project.log(job)
    assert state(job)["JobState"] == "CANCELLED"


def test_sigterm_ends_with_a_checkpoint_and_no_requeue(project: Project):
    job = project.submit()
    project.wait_for(job, "training")
    ask("scancel", "--batch", "--signal", "TERM", job)
    until(lambda: state(job)["JobState"] == "FAILED", f"the end: {state(job)}")
    assert state(job)["ExitCode"] == "143:0"
    assert "checkpoint written" in project.log(job)
    assert "queued again" not in project.log(job)


def test_every_task_of_an_array_is_a_run_of_its_own(project: Project):
    (project.folder / "done").write_text("0")
    job = project.submit("--nodes", "1", "--array", "0-1", arguments="job.py --train.seed TASK")
    for task in ("0", "1"):
        log = project.wait_for(f"{job}_{task}", "training")
        assert f"training --train.seed {task} --store.run slurm-{job}_{task} --store.resume auto" in log


def test_a_task_that_is_queued_again_leaves_the_others_alone(project: Project):
    """The last task has the number of its array."""
    job = project.submit("--nodes", "1", "--array", "0-1", arguments="job.py --train.seed TASK")
    for task in ("0", "1"):
        project.wait_for(f"{job}_{task}", "training")
    (last,) = [task for task in ("0", "1") if state(f"{job}_{task}")["JobId"] == job]
    ask("scancel", "--batch", "--signal", "USR1", f"{job}_{last}")
    until(lambda: state(f"{job}_{last}")["Restarts"] == "1", f"a requeue: {state(f'{job}_{last}')}")
    other = state(f"{job}_{1 - int(last)}")
    assert (other["JobState"], other["Restarts"]) == ("RUNNING", "0")


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("--sweep", "--sweep --store.run slurm-{job} --ray-address"),
        ("--sweep --store.run night", "--sweep --store.run night --ray-address"),
        ("--store.resume night", "--store.resume night --ray-address"),
    ],
)
def test_a_name_that_was_given_stays(project: Project, given: str, added: str):
    (project.folder / "done").write_text("0")
    job = project.submit(arguments=f"job.py {given}")
    project.wait_for(job, f"training {added.format(job=job)}")
