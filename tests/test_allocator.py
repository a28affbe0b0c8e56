"""What is freed stays with the process."""

import json
import os
import platform
import subprocess
import sys

import pytest

from qdet.allocator import ONE_KEPT_HEAP

FREE = """
import ctypes, json, sys, threading
from qdet.allocator import keep_freed_memory

if "here" in sys.argv:
    keep_freed_memory()
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
use()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(json.dumps([later - kept[0] for later in kept[1:]]))
"""
BLOCK = 2**28

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")


def kept(*args, variables):
    """Return the bytes that a process keeps of a block after each of two uses, the second in a thread."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", FREE, *args], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(("args", "variables"), [(["here"], {}), ([], ONE_KEPT_HEAP)])
def test_a_freed_block_is_kept_once_and_for_all_threads(args, variables):
    for held in kept(*args, variables=variables):
        assert BLOCK * 3 / 4 < held < BLOCK * 5 / 4


@pytest.mark.parametrize("variables", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": ""}])
def test_what_the_environment_sets_stays(variables):
    assert max(kept("here", variables=variables)) < BLOCK / 4


def test_without_either_a_freed_block_is_returned():
    assert max(kept(variables={})) < BLOCK / 4
