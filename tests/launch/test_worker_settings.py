"""What Ray's workers start with."""

import json
import os
import platform
import subprocess
import sys

import pytest

from qdet.job import Job
from qdet.launching.ray_backend import worker_settings

FREE_IN_A_THREAD = """
import ctypes, json, threading

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def use():
    block = libc.malloc(2**28)
    ctypes.memset(block, 1, 2**28)
    libc.free(block)
    kept.append(resident())


kept = [resident()]
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(json.dumps(kept[1] - kept[0]))
"""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(worker_settings, "_all_on_loopback", lambda: True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are those of glibc")
@pytest.mark.parametrize("gpu", [False, True])
def test_workers_on_cpus_keep_memory_for_the_next_step(gpu):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    variables |= worker_settings.worker_environment(Job(name="tiny"), gpu=gpu)
    done = subprocess.run(
        [sys.executable, "-c", FREE_IN_A_THREAD], env=variables, capture_output=True, text=True, check=True
    )
    assert (json.loads(done.stdout) > 2**27) == (not gpu)
