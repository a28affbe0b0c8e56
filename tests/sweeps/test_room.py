"""Trials on a real cluster that has room for some: what never fits is said at once, what fits later waits."""

import json
from pathlib import Path

from tests.launch.conftest import *  # noqa: F403  (the fixtures of tests that start Ray)
from tests.support.cluster_marks import on_a_cluster

pytestmark = on_a_cluster()


def test_what_never_fits_is_a_row_before_any_trial_starts_and_what_fits_later_waits(
    project: Path, nodes, start
):
    script = project / "jobs" / "tiny_job.py"
    text = script.read_text().replace("import Choice", "import Each")
    script.write_text(
        text.replace('"optim.lr": Choice((1e-3, 1e-4, float("inf")))', '"train.workers": Each((1, 4))')
    )
    nodes.add(3, 4)
    flags = ("--sweep", "--store.run", "night", "--sweep.trials", "3", "--sweep.concurrent", "3")
    job = start(*flags, "--sweep.scheduler", "none", "--train.workers", "1", "--ray-address", nodes.address)
    never = "trial t0{} cannot run here: needs 4 workers, the cluster has 2\n"
    job.wait_for(r"^trial t01 tries ", seconds=200)
    for number in (2, 4, 6):  # each was said before the first trial started
        assert job.text.index(never.format(number)) < job.text.index("trial t01 tries ")
    began, said = job.when("^sweep night: "), job.when("cannot run here")
    print(f"a row {said - job.started:.1f} s after the command, {said - began:.1f} s after its first line")
    job.wait_for(r"^trial t05 waits: 2 running trials take 2 of the 2 workers that the cluster has room for")
    assert job.end(600) == 0
    trials = {
        file["number"]: file
        for file in (json.loads(one.read_text()) for one in (project / "outputs/night/trials").glob("*.json"))
    }
    assert {number: trial["state"] for number, trial in trials.items()} == {
        **dict.fromkeys((1, 3, 5), "finished"),
        **dict.fromkeys((2, 4, 6), "cannot run here"),
    }
    assert [trials[number]["starts"] for number in sorted(trials)] == [1, 0, 1, 0, 1, 0]
    ran = sorted(folder.name for folder in (project / "outputs").glob("night-t*"))
    assert ran == ["night-t01", "night-t03", "night-t05"]
