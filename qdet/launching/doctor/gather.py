"""Facts of the machine that this runs on."""

import hashlib
import os
import platform
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from qdet.launching.doctor.facts import Gpus, Software, Space
from qdet.training.beginning.conditions import find_version

PACKAGES = ("qdet", "torch", "ray", "deepspeed", "numpy", "mlflow", "webdataset")
MISSING = "missing"
_DEVICE = Path("/dev/nvidia0")
_SHARED_MEMORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup/pids.max")


def find_software() -> Software:
    """Return versions of Python and of the packages that training needs, without importing those."""
    found = {"python": platform.python_version()} | {name: find_version(name) or MISSING for name in PACKAGES}
    return Software(versions=found, code=_digest_of_code())


def find_gpus(counted: float | None) -> Gpus:
    """Return the GPUs that NVIDIA's driver lists, whatever CUDA_VISIBLE_DEVICES hides.

    Args:
        counted: Those that Ray hands out.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(counted=counted, error=str(error) if _DEVICE.exists() else None)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = tuple(_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        return Gpus(names=names, driver=_text(pynvml.nvmlSystemGetDriverVersion()), counted=counted)
    except pynvml.NVMLError as error:
        return Gpus(counted=counted, error=str(error))
    finally:
        pynvml.nvmlShutdown()


def find_open_files() -> int:
    """Return the soft limit of open files; -1 without one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if soft == resource.RLIM_INFINITY else soft


def find_processes() -> int:
    """Return the limit of processes and threads, the lower of the user's and the container's; -1 without."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [] if soft == resource.RLIM_INFINITY else [soft]
    if _CGROUP.is_file() and (text := _CGROUP.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits, default=-1)


def find_shared_memory() -> Space | None:
    """Return how much /dev/shm holds; None where the system has none."""
    return measure_space(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None


def find_disks(folders: Iterable[str]) -> tuple[Space, ...]:
    """Return the room of each folder's disk, and of that of temporary files, each disk once."""
    found: dict[int, Space] = {}
    for name in (*folders, os.environ.get("RAY_TMPDIR", tempfile.gettempdir())):
        folder = Path(name).expanduser()
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        found.setdefault(folder.stat().st_dev, measure_space(folder))
    return tuple(found.values())


def measure_space(folder: Path) -> Space:
    """Return how much is free around a folder."""
    usage = shutil.disk_usage(folder)
    return Space(path=str(folder), free=usage.free, total=usage.total)


def find_taken(ports: Sequence[int], address: str) -> tuple[int, ...]:
    """Return those of the ports at which a service could not listen on an address of this machine."""
    return tuple(port for port in ports if not _is_free(port, address))


def _is_free(port: int, address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _digest_of_code() -> str:
    import qdet

    root, hashing = Path(qdet.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        hashing.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return hashing.hexdigest()[:16]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
