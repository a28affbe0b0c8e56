"""Ranks whose copies of the data differ are refused before the first step, by host and digest."""

import os
import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.spawn import ProcessRaisedException

from data_prep.coco_to_shards import Conversion, convert
from qdet.config import override
from qdet.console import open_console
from qdet.data.shards.categories import Categories
from qdet.data.shards.locate import Access
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.training.beginning.same_data import check_same_data, describe_copies, identify
from tests.support.ranks import _train, on_ranks, tiny_job
from tests.support.simulated_ranks import on_simulated_ranks

DATASET = SequentialSet("s", (), Categories(("box",), (1,)), "", 1, Access())
DIGESTS = st.sampled_from([letter * 64 for letter in "abc"])


@settings(max_examples=50, deadline=None)
@given(ranks=st.lists(st.tuples(DIGESTS, DIGESTS), min_size=1, max_size=5))
def test_all_ranks_are_refused_together_exactly_where_copies_differ(ranks):
    def check(world):
        train, val = (replace(DATASET, digest=digest) for digest in ranks[world.rank])
        return check_same_data(world, train, val)

    found = on_simulated_ranks(len(ranks), check)
    differing = [name for name, copies in zip(("train", "val"), zip(*ranks, strict=True), strict=True)
                 if len(set(copies)) > 1]  # fmt: skip
    if not differing:
        assert {len(hosts) for hosts in found} == {len(ranks)}
        return
    assert {type(error) for error in found} == {ConfigError}
    (said,) = {str(error) for error in found}
    assert [name for name in ("train", "val") if f"--data.{name} is not the same" in said] == differing
    for name in differing:
        part = next(part for part in said.split("; ") if part.startswith(f"--data.{name}"))
        place = ("train", "val").index(name)
        for digest in {rank[place] for rank in ranks}:
            (numbers,) = re.findall(rf"digest {digest[:12]} on \S+ \(ranks? ([\d, ]+)\)", part)
            assert [*map(int, numbers.split(", "))] == [
                number for number, rank in enumerate(ranks) if rank[place] == digest
            ]


def test_hosts_are_named_with_their_own_ranks():
    ranks = [{"host": host, "train": copy} for host, copy in (("a", "x"), ("b", "y"), ("a", "x"), ("c", "x"))]
    assert describe_copies("train", ranks) == (
        "--data.train is not the same on all machines: digest x on a (ranks 0, 2) and on c (rank 3), digest "
        "y on b (rank 1)"
    )
    assert describe_copies("train", ranks[2:]) is None


def test_another_index_of_the_same_shards_is_another_copy(demo_shards):
    shards = ShardSet.open(demo_shards / "train")
    other = replace(shards, manifest={**shards.manifest, "index_sha256": "0" * 64})
    ranks = [{"host": "a", "train": identify(one)} for one in (shards, other)]
    said = describe_copies("train", ranks)
    assert said is not None
    assert f"index {shards.manifest['index_sha256'][:12]} on a (rank 0), index {'0' * 12}" in said


@pytest.mark.slow
def test_a_rank_with_other_shards_ends_all_ranks_and_nothing_is_trained(demo_shards, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(demo_shards, copy, ignore=shutil.ignore_patterns("train"))
    coco = demo_shards / "coco"
    out = copy / "train"
    convert(
        Conversion(coco=coco, split="train", out=out, shard_megabytes=0.02, processes=1),
        console=open_console(quiet=True),
    )
    job = tiny_job(demo_shards, **{"train.workers": 2, "train.steps": 2})
    with pytest.raises(ProcessRaisedException, match=r"--data\.train is not the same on all machines") as why:
        on_ranks(2, _train_own_copy, job, str(out), tmp_path / "store")
    digests = [ShardSet.open(folder / "train").digest[:12] for folder in (demo_shards, copy)]
    assert all(digest in str(why.value) for digest in digests)
    assert not [*(tmp_path / "store").rglob("step_*")]


def _train_own_copy(job, other, store):
    """Train, rank 1 from another copy."""
    store.mkdir(exist_ok=True)
    if os.environ["RANK"] == "1":
        job = override(job, {"data.train": other})
    _train({"differing": job}, store)
