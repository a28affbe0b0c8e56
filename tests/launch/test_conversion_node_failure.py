"""A conversion on two nodes, one of which dies: the shards equal those of one process."""

import os
import subprocess
import sys
import time
from pathlib import Path

from data_prep.coco_to_shards import Conversion, convert
from tests.support.cluster_marks import on_a_cluster

pytestmark = on_a_cluster()

IMAGES = 900
TINY = 0.001  # megabytes: one image per shard


def test_a_conversion_survives_the_death_of_a_node(project: Path, nodes, make_coco):
    root, _ = make_coco(IMAGES)
    convert(Conversion(coco=root, split="train", out=project / "here", shard_megabytes=TINY, processes=1))
    nodes.add(3, 4)
    out = project / "nodes"
    job = subprocess.Popen(
        [
            *(sys.executable, "-m", "data_prep.coco_to_shards", "--coco", str(root), "--split", "train"),
            *("--out", str(out), "--shard-megabytes", str(TINY)),
        ],
        env=os.environ | {"RAY_ADDRESS": nodes.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while job.poll() is None and count_shards(out) < IMAGES // 6:
            time.sleep(0.05)
        before = count_shards(out)
        nodes.kill(4)
        text, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 0, text
    print(f"a node was killed after {before} of {IMAGES} shards")
    assert before < IMAGES
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (project / "here").iterdir()
    }


def count_shards(out: Path) -> int:
    """Return the number of finished shards."""
    return len(list(out.glob("*.tar")))
