"""A population on a real Ray: a weak trial continues from the winner's checkpoint, also after a kill."""

import json
import os
import signal
import time
from pathlib import Path

from qdet.checkpoint import open_folder
from qdet.checkpoint.copying import is_copy
from qdet.checkpoint.manifest import read_manifest
from tests.launch.conftest import *  # noqa: F403  (the fixtures of tests that start Ray)
from tests.support.cluster_marks import on_a_cluster

pytestmark = on_a_cluster(timeout=1500)
EPOCH = 6
"""Steps of one."""
FLAGS = ("--sweep", "--store.run", "pop", "--sweep.trials", "2", "--sweep.scheduler", "pbt")
SMALL = ("--train.workers", "1", "--train.steps", "18", "--train.keep-every", "1")


def _trials(project: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((project / "outputs/pop/trials").glob("*.json"))]


def test_a_killed_population_goes_on_from_its_record(project: Path, start):
    script = project / "jobs" / "tiny_job.py"
    text = script.read_text().replace('Choice((1e-3, 1e-4, float("inf")))', "LogUniform(1e-12, 1e-2)")
    script.write_text(text.replace("import Choice", "import LogUniform"))
    first = start(*FLAGS, *SMALL)
    deadline = time.monotonic() + 600
    while not any(trial["turns"] for trial in _trials(project)):
        assert first.process.poll() is None, first.text
        assert time.monotonic() < deadline, first.text
        time.sleep(0.2)
    os.kill(first.process.pid, signal.SIGKILL)
    first.end()
    second = start(*FLAGS, *SMALL)
    assert second.end(900) == 0, second.text
    trials = _trials(project)
    assert [trial["state"] for trial in trials] == ["finished", "finished"]
    for trial in trials:
        assert [entry["epoch"] for entry in trial["reports"]] == [1, 2, 3]
        assert [turn["epoch"] for turn in trial["turns"]] == [1, 2]
        assert [entry["step"] for entry in trial["reports"]] == [EPOCH, 2 * EPOCH, 3 * EPOCH]
    copied = [
        (number, turn)
        for number, trial in enumerate(trials, start=1)
        for turn in trial["turns"]
        if turn["parent"]
    ]
    for number, turn in copied:
        ours, theirs = (
            read_manifest(open_folder(project / f"outputs/pop-t{one:02d}/step_{turn['step']:06d}"))
            for one in (number, turn["parent"])
        )
        assert is_copy(ours, theirs)
    for number, turn in copied:
        trial = trials[number - 1]
        later = [one["before"] for one in trial["turns"] if one["epoch"] > turn["epoch"]]
        assert [*later, trial["settings"]][0] != turn["before"]
    third = start(*FLAGS, *SMALL)  # it is over: only the table
    assert third.end(200) == 0
    assert third.text.count("finished") == 2
