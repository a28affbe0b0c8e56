"""A worker that hangs on Ray is noticed and replaced, and the run ends bitwise as an undisturbed one."""

import signal
import time
from pathlib import Path

from tests.support.cluster_marks import on_a_cluster
from tests.support.ranks import assert_same, checkpoint

pytestmark = on_a_cluster()

STEPS = 30
FLAGS = (
    *("--train.steps", str(STEPS), "--train.checkpoint-every", "5", "--train.log-every", "1"),
    *("--train.max-failures", "1", "--optim.ema-decay", "0.9"),
)
LIMITS = {
    # The worker that waits for the frozen one reports its stacks and exits.
    "watchdog": ("--train.hang-after", "6", "--train.timeout", "120"),
    # The collective with the frozen worker fails.
    "timeout": ("--train.hang-after", "120", "--train.timeout", "8"),
}
MESSAGES = {
    "watchdog": r"worker 0 on host \S+: no step for \d+ s, the last \d+ s of it in: \w+.* exit code 75",
    "timeout": r"RuntimeError: .*[Tt]imed out",
}


def test_a_frozen_worker_is_noticed_and_replaced(project: Path, start):
    calm = start(*FLAGS, "--store.run", "calm")
    assert calm.end() == 0
    for how, limits in LIMITS.items():
        job = start(*FLAGS, *limits, "--store.run", how)
        job.wait_for(rf"step 8/{STEPS}")
        frozen = job.workers()[1]
        frozen.send_signal(signal.SIGSTOP)
        at = time.monotonic()
        job.wait_for(MESSAGES[how], seconds=60)  # Ray's own timeout is 600
        job.wait_for(rf"resuming from step 5 of {STEPS}")
        assert job.end() == 0
        reported, resumed = (job.when(line, after=at) - at for line in (MESSAGES[how], "resuming from"))
        print(f"{how}: reported after {reported:.0f} s, resumed after {resumed:.0f} s")
        assert not frozen.is_running()
        ends = (checkpoint(project / "outputs", run, STEPS) for run in (how, "calm"))
        assert_same(*ends)
        if how == "watchdog":
            _check_stacks(job.text)


def _check_stacks(text: str) -> None:
    """Check that the main thread's stack leads from the training loop to the call it waits in."""
    stacks = text.partition("Stacks of all its threads:")[2]
    assert "most recent call first" in stacks
    assert "qdet/training/loop.py" in stacks
