"""Submit a job file to a Ray cluster as a Ray job: upload it, follow its log, return its exit code."""

import asyncio
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qdet.errors import ClusterError, ConfigError
from qdet.launching import paths
from qdet.launching.exit_status import Exit
from qdet.launching.ray_backend import head
from qdet.launching.ray_backend.uploading.upload import EXCLUDES as EXCLUDES
from qdet.launching.ray_backend.uploading.upload import plan_upload
from qdet.launching.runs.typed import COMMAND
from qdet.masking import mask
from qdet.storage.proxies import name_proxy
from qdet.storage.sockets import HOST
from qdet.tracking import COMMIT_VARIABLE, git_commit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_CANCELLED = 5.0
"""Seconds that a cancelled log may take to end."""


def submit(
    job_file: str,
    arguments: Sequence[str] = (),
    *,
    address: str | None = None,
    variables: Mapping[str, str] | None = None,
    include: Sequence[str] = (),
    show: Callable[[str], None] = lambda text: print(text, end="", flush=True),
) -> int:
    """Run a job file on a cluster and follow it to its end; Ctrl-C stops the job, with a checkpoint.

    Args:
        job_file: Path of the job file, below the current folder, which is uploaded; or `qdet:NAME` for one
            that comes with qdet.
        arguments: Its command line.
        address: URL of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS or the local head.
        variables: Further environment variables of the job.
        include: Files and folders below the current one that are uploaded though they are no source.
        show: Receives the job's output as it arrives.

    Returns:
        The exit code of the job.

    Raises:
        ConfigError: The job file is not below the current folder, its arguments or variables hold a
            secret, or there is more to upload than Ray takes.
        ClusterError: No cluster answers.
    """
    entry = _entry_point(job_file)
    address = find_dashboard(address)
    environment = _environment(address) | dict(variables or {})
    environment[COMMAND] = shlex.join(["qdet", "submit", job_file, "--"])
    command = shlex.join([*entry, *arguments])
    _refuse_secrets(environment | {"the job's command line": command})
    client = _client(address)
    upload = plan_upload(Path.cwd(), include)
    show(f"{upload.describe()}\n")
    job = _submit(client, command, {"working_dir": ".", "excludes": upload.excludes, "env_vars": environment})
    show(f"submitted {command!r} to {address} as {job}\n")
    log = _Log(client, job, show)
    try:
        log.follow()
    except KeyboardInterrupt:
        show(f"stopping {job}, with a checkpoint; Ctrl-C again leaves it to that\n")
        client.stop_job(job)
        log.follow()  # what it says of where it stopped
    return _exit_code(client, job)


def _entry_point(job_file: str) -> list[str]:
    """Return the command of a job; one that comes with qdet is found where the cluster has qdet installed."""
    from qdet.job_files import PREFIX, find_job

    if not job_file.startswith(PREFIX):
        if Path(job_file).is_absolute() or not Path(job_file).is_file():
            from qdet.recipes import answer

            raise ConfigError(answer(Path(job_file)) or f"{job_file}: no such job file below {Path.cwd()}")
        return ["python", job_file]
    find_job(job_file)
    return ["python", "-m", "qdet", "run", job_file, "--"]


def find_dashboard(address: str | None = None) -> str:
    """Return the URL of the dashboard to submit to; for the local head, also set its token here.

    Raises:
        ClusterError: No address is given and no local head is running.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address:
        return address
    local = head.running()
    if local is None:
        raise ClusterError(
            "no Ray head to submit to: start one with cluster/local.sh up (or add --start-head), or name the "
            "cluster's dashboard with --address http://HOST:8265"
        )
    os.environ.update(local.environment)
    return local.dashboard


def _client(address: str) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    for verbose in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(verbose).setLevel(logging.ERROR)  # they log every excluded file, three times
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        reason = str(error).strip().splitlines()
        said = reason[0] if reason else type(error).__name__
        raise ClusterError(f"--address {address}: {said}{name_proxy(address)}") from error


def _environment(address: str) -> dict[str, str]:
    """Return variables for the job: on our own head our folders, elsewhere only what the user has set."""
    variables: dict[str, str | None] = {
        COMMIT_VARIABLE: git_commit(),
        "RAY_JOB_STOP_WAIT_TIME_S": "20",  # time to report to MLflow that the job was stopped
    }
    if _is_own_head(address):
        variables |= {paths.ROOT: str(paths.root()), paths.TRACKING: paths.tracking_uri()}
    else:
        variables |= {name: os.environ.get(name) for name in (paths.ROOT, paths.TRACKING)}
    return {name: value for name, value in variables.items() if value}


def _is_own_head(address: str) -> bool:
    """Whether a dashboard is that of this project's local head; a loopback address alone may be a forward."""
    local = head.running()
    if local is None:
        return False
    asked, own = urlsplit(address), urlsplit(local.dashboard)
    host = HOST if asked.hostname == "localhost" else asked.hostname
    return (host, asked.port) == (own.hostname, own.port)


def _refuse_secrets(given: Mapping[str, str]) -> None:
    """Raise ConfigError if `given` holds a secret: Ray logs the command and variables of every job."""
    for name, value in given.items():
        if mask(value) != value:
            raise ConfigError(
                f"{name} holds a secret, {mask(value)}, which Ray would write into its logs: leave it out "
                "and set it on the cluster's machines (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                "for MLflow, AWS_SECRET_ACCESS_KEY or a role for a bucket)"
            )


def _submit(client: "JobSubmissionClient", command: str, runtime_env: dict[str, Any]) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.submit_job(entrypoint=command, runtime_env=runtime_env)
        except RuntimeError as error:
            # A head that has just started answers this until its agent has registered.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ClusterError(f"the cluster refused the job: {error}") from error
            time.sleep(1)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, in a thread of its own where this one runs an event loop, as a notebook does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop, ended = asyncio.new_event_loop(), Future[None]()
    task = loop.create_task(work)

    def run() -> None:
        try:
            ended.set_result(loop.run_until_complete(task))
        except BaseException as error:
            ended.set_exception(error)
        finally:
            loop.close()

    threading.Thread(target=run, name="qdet-log", daemon=True).start()
    try:
        ended.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        wait((ended,), timeout=_CANCELLED)
        raise


class _Log:
    """The log of a job, shown as it grows; when followed again, from where it was left."""

    def __init__(self, client: Any, job: str, show: Callable[[str], None]) -> None:
        self._client, self._job, self._show = client, job, show
        self._shown = 0

    def follow(self) -> None:
        """Show what is new until the job ends."""
        _run(self._follow())

    async def _follow(self) -> None:
        passed = 0
        async for text in self._client.tail_job_logs(self._job):
            new = text[max(0, self._shown - passed) :]
            passed += len(text)
            self._shown = max(self._shown, passed)
            if new:
                self._show(new)


def _exit_code(client: "JobSubmissionClient", job: str) -> int:
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(0.5)
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        return Exit.INTERRUPTED
    if info.driver_exit_code is None:  # the command was never started
        raise ClusterError(f"the job could not start: {info.message}")
    return info.driver_exit_code
