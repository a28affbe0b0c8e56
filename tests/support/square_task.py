"""A task for other processes and other nodes, which leaves a file that names its process."""

import os
import time
from pathlib import Path

from qdet.errors import DataError


def square(task):
    folder, number = task
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    if number == 13:
        raise DataError("unlucky")
    if number == 14:
        os._exit(3)
    if number > 99:
        time.sleep(0.02)
    return number * number
