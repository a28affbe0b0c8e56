"""requirements.lock: whole, hashed, within pyproject's bounds, and what the image installs."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-cuda.lock")


def entries(lock: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Every requirement of a lock file with its hashes."""
    text = (REPO / lock).read_text()
    for line in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines():
        requirement, *hashes = line.split(" --hash=")
        yield Requirement(requirement.strip()), [one.strip() for one in hashes]


def versions(*locks: str) -> dict[str, str]:
    """The version of every locked package, by its canonical name."""
    return {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for lock in locks
        for requirement, _ in entries(lock)
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_one_version_with_sha256_and_no_address(lock):
    for requirement, hashes in entries(lock):
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
    text = (REPO / lock).read_text()
    assert not re.search(r"://|^\s*-(-\w|f|i)(?!ash)", text.replace("--hash=", ""), flags=re.MULTILINE)


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_what_pyproject_asks_for_is_locked_within_its_bounds(line):
    asked = Requirement(line)
    lock = "requirements-cuda.lock" if asked.name == "torch" else "requirements.lock"
    locked = versions(lock)[canonicalize_name(asked.name)]
    assert asked.specifier.contains(locked), (line, locked)


def test_torch_and_what_is_built_for_cuda_stand_apart():
    assert not {
        name for name in versions("requirements.lock") if re.match("torch$|triton|nvidia-(?!ml)", name)
    }
    both = versions("requirements.lock").keys() & versions("requirements-cuda.lock").keys()
    for name in both:
        assert versions("requirements.lock")[name] == versions("requirements-cuda.lock")[name]


def test_what_locked_packages_need_is_locked_too():
    """By the metadata of those that are installed here in the locked version."""
    locked, looked_at = versions(*LOCKS), 0
    for name, version in locked.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if found.version != version or name == "torch":  # its CPU build needs other packages
            continue
        looked_at += 1
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, (name, line)
                assert needed.specifier.contains(locked[canonicalize_name(needed.name)]), (name, line)
    if looked_at < len(locked) / 2:
        pytest.skip("fewer than half of the locked versions are installed here: nothing to compare with")


def test_the_image_installs_nothing_that_is_not_hashed():
    text = (REPO / "cluster" / "Dockerfile").read_text()
    (torch,) = re.findall(r'^ARG TORCH="(.*)"$', text, flags=re.MULTILINE)
    steps = re.findall(r"pip install (.*?)(?: &&|$)", re.sub(r"\s*\\\n\s*", " ", text), flags=re.MULTILINE)
    installed = []
    for step in steps:
        words = shlex.split(step.replace("$TORCH", torch))
        if "-e" in words:
            assert "--no-deps" in words
        else:
            assert "--require-hashes" in words
            installed.append(words[words.index("-r") + 1])
    assert sorted(installed) == sorted(LOCKS)


def test_the_image_and_the_cluster_have_the_same_ray():
    rayjob = yaml.safe_load((REPO / "cluster" / "kuberay-rayjob.yaml").read_text())
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == versions("requirements.lock")["ray"]


@pytest.mark.parametrize("age", ["oldest", "newest"])
def test_matrix_takes_the_bounds_of_pyproject(age):
    """Its `requirements` function, without installing anything."""
    script = (REPO / "tests" / "matrix.sh").read_text()
    (function,) = re.findall(r"^requirements\(\) \{.*?^\}$", script, flags=re.MULTILINE | re.DOTALL)
    command = f"python={shlex.quote(sys.executable)}\n{function}\nrequirements dev {age} numpy==2.1"
    printed = subprocess.check_output(["bash", "-c", command], cwd=REPO, text=True).splitlines()
    chosen = {(one := Requirement(line)).name: one for line in printed}
    assert str(chosen["numpy"].specifier) == "==2.1"
    assert {"onnx", "pytest", "zensical", "wandb"} <= chosen.keys()
    for line in PROJECT["dependencies"]:
        asked = Requirement(line)
        if age == "oldest" and asked.name in {"torch", "ray", "mlflow", "opencv-python-headless"}:
            (pin,) = chosen[asked.name].specifier
            assert pin.operator == "=="
            assert asked.specifier.contains(pin.version)
            assert {one.version for one in asked.specifier if one.operator == ">="} == {pin.version}
            assert any(one.operator == "<" for one in asked.specifier)
        elif asked.name != "numpy":
            assert chosen[asked.name].specifier == asked.specifier
        assert chosen[asked.name].extras == asked.extras
