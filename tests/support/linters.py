"""Linters of shell scripts and Dockerfiles, from the environment that runs the tests."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def linter(name: str) -> str:
    """Path of a linter; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed: pip install .[dev]")
