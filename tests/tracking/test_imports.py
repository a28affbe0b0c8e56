"""MLflow's parts are imported by several threads of a process at once."""

import os
import subprocess
import sys
from pathlib import Path

RACE = """
import sys, threading
sys.setswitchinterval(1e-6)
from qdet.tracking.database import open_client
from qdet.tracking.system_metrics import _collectors

failed, start = [], threading.Barrier(2)

def run(task):
    start.wait()
    try:
        task()
    except Exception as error:
        failed.append(repr(error))

tasks = (_collectors, lambda: open_client(sys.argv[1]))
threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""


def test_threads_that_import_parts_at_once_get_whole_ones(tmp_path: Path):
    database = tmp_path / "mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", RACE, f"sqlite:///{database}"],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert database.is_file()
