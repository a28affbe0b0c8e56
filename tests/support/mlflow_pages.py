"""Pictures of MLflow's pages; `python -m tests.support.mlflow_pages FOLDER docs/mlflow` writes the docs'.

FOLDER holds an mlflow.db with at least one finished run, or with a sweep: then its pictures are taken.
`qdet ui` serves it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qdet.tracking.view import BEST, SWEEPS
from tests.support.browser import Page, find_chromium, open_browser

STORAGE = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}
"""Closes the panel that covers a part of the page at the first visit."""
LARGEST = 300_000
"""Bytes of a picture in the docs."""


@contextmanager
def served(project: Path, *flags: str) -> Iterator[str]:
    """Run `qdet ui` in a folder, and yield the address that it prints; then end it by Ctrl-C."""
    command = [sys.executable, "-m", "qdet", "ui", "--no-browser", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    said: list[str] = []
    try:
        for line in process.stdout or ():
            said.append(line)
            if found := re.match(r"http://\S+", line):
                break
        else:
            raise AssertionError("".join(said))
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def take_pictures(page: Page, address: str, client: Any, to: Path) -> None:
    """Open the pages of the best run one by one, check what they show, and write their pictures."""
    experiment = client.get_experiment_by_name("qdet").experiment_id
    run = client.search_runs([experiment], order_by=["metrics.`val/AP` DESC"])[0]
    base, training = address.partition("/#")[0], "workflowType=machine_learning"
    runs = f"{base}/#/experiments/{experiment}/runs"
    page.open(address, height=560)
    page.wait_for_text(
        "matching run", "val/AP", "val/AP50", "train/loss", str(run.data.metrics["val/AP"])[:6]
    )
    page.screenshot(to / "runs.png")
    page.open(f"{runs}/{run.info.run_id}?{training}", height=1700)
    page.wait_for_text("Description", "AP50", "Ready", "train (", "val (", "qdet.started")
    page.screenshot(to / "run.png")
    page.open(f"{base}/#/experiments/{experiment}/models?{training}")
    page.wait_for_text("Model name", "Ready", run.info.run_name[:10])
    logged = client.search_logged_models([experiment], filter_string="name = 'model'")
    model = next(one for one in logged if one.source_run_id == run.info.run_id)
    page.open(f"{base}/#/experiments/{experiment}/models/{model.model_id}?{training}", height=1000)
    page.wait_for_text("val/AP", "Ready", "qdet predict runs:/", run.info.run_id)
    page.screenshot(to / "model.png")
    page.open(f"{runs}/{run.info.run_id}/model-metrics?{training}", height=1000)
    page.wait_for_text("val", "Add section")
    _show_pictures(page)
    page.screenshot(to / "pictures.png")


def find_sweep(client: Any) -> Any:
    """Return the run of the latest sweep; None without one."""
    experiment = client.get_experiment_by_name("qdet").experiment_id
    return next(iter(client.search_runs([experiment], filter_string="tags.`qdet.sweep` = 'true'")), None)


def take_sweep_pictures(page: Page, address: str, client: Any, to: Path) -> None:
    """Open the pages of the latest sweep, check that all of its trials are there, and write their pictures.

    Args:
        page: A tab.
        address: Of the page of sweeps.
        client: Knows the same runs.
        to: Folder of the pictures.
    """
    sweep = find_sweep(client)
    experiment, name, best = sweep.info.experiment_id, sweep.info.run_name, sweep.data.tags["qdet.best_trial"]
    trials = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{sweep.info.run_id}'")
    page.open(address, height=400 + 33 * len(trials))
    page.wait_for_text(name, "best/val/AP", "qdet.trial_state")
    link = f"[...document.querySelectorAll('a')].find(e => e.innerText.trim() === {json.dumps(name)})"
    page.wait_for(f"{link} !== undefined")
    page.run(f"{link}.closest('[role=gridcell]').querySelector('button').click()")
    page.wait_for_text(*(trial.info.run_name for trial in trials))
    page.wait_for_text(*(trial.data.tags["qdet.trial_state"] for trial in trials))
    page.wait_for_text(*(run.data.tags["qdet.cause"][:24] for run in trials if "qdet.cause" in run.data.tags))
    page.screenshot(to / "sweep_runs.png")
    page.open(
        f"{address.partition('/#')[0]}/#/experiments/{experiment}/runs/{sweep.info.run_id}",
        width=1660,
        height=2400,
    )
    page.wait_for_text("Description", "Show more", f"Best: {best}, val/AP")
    page.run(f"{_last_with_text('Show more')}.click()")
    page.wait_for_text(*(trial.data.tags["qdet.trial"] for trial in trials), "Show less")
    page.wait_for("[...document.images].filter(e => e.naturalWidth > 600).length === 3")
    bottom = page.run(f"{_last_with_text('Show less')}.getBoundingClientRect().top")
    page.screenshot(to / "sweep.png", corner=(198, 90), size=(1450, int(bottom) - 90))


def _show_pictures(page: Page) -> None:
    """Open the chart of pictures and move its slider to the last step."""
    section, chart = _last_with_text("Model metrics"), _last_with_text("predictions")
    _until(page, lambda: page.run(f"({section}.scrollIntoView(), {chart} !== undefined)"))
    page.run(f"""(() => {{
        let at = {chart};
        while (!at.querySelector('button')) at = at.parentElement;
        at.querySelector('button').click();
    }})()""")
    page.wait_for("document.querySelector('[role=dialog] [role=slider]') !== null")
    page.run("document.querySelector('[role=dialog] [role=slider]').focus()")
    at_end = (
        """(e => e.ariaValueNow === e.ariaValueMax)(document.querySelector('[role=dialog] [role=slider]'))"""
    )
    _until(page, lambda: page.run(at_end) or page.press("ArrowRight", 39))
    shown = "[...document.querySelectorAll('[role=dialog] img')].filter(e => e.naturalWidth > 256)"
    page.wait_for(f"({shown}).length > 0")
    page.run(f"({shown})[0].scrollIntoView({{block: 'center'}})")


def _last_with_text(text: str) -> str:
    """Return the JavaScript of the last element that shows only this text; charts appear once scrolled to."""
    return f"""[...document.querySelectorAll('*')].filter(
        e => !e.children.length && e.textContent.trim() === '{text}').pop()"""


def _until(page: Page, done: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, page.text()[-1000:]
        time.sleep(0.3)


def main(project: Path, to: Path) -> None:
    """Write the pictures of the docs."""
    from mlflow import MlflowClient

    program = find_chromium()
    assert program, "there is no Chromium here"
    to.mkdir(parents=True, exist_ok=True)
    with served(project, "--sweeps") as address, open_browser(program, storage=STORAGE) as page:
        client = MlflowClient(address.partition("/#")[0])
        take = take_pictures if find_sweep(client) is None else take_sweep_pictures
        take(page, address.replace(SWEEPS, BEST) if take is take_pictures else address, client, to)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
