"""Names of runs: drawn, claimed in their store without a race, and found again by a part."""

import json
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint.run_names import find_folder, find_run, match_run, require_folder
from qdet.config import override
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.runs import record, words
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.sweeps.session import trial_name
from qdet.storage import Folder

OLD = "adamixer_swin_demo-20261128-043715-a2c56bb2"


def _job(store: Path | str) -> Job:
    return override(Job(name="tiny"), {"store.path": str(store)})


def _write(store: Path | str, *names: str) -> None:
    for name in names:
        record.write(str(store), record.RunRecord(name=name, mlflow_run_id=None, tracking_uri=""))


@pytest.mark.parametrize("listed", [words.ADJECTIVES, words.ANIMALS])
def test_words_are_short_plain_and_told_apart_by_four_letters(listed: tuple[str, ...]):
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) <= 7 for word in listed)
    assert len({word[:4] for word in listed}) == len(listed) > 90


def test_a_derived_name_is_the_same_in_every_process_and_another_for_another_key():
    names = {words.derive(f"host 1764300000 {pid}") for pid in range(2000)}
    assert len(names) == 2000
    assert words.derive("host 1764300000 4185") == words.derive("host 1764300000 4185")


def test_a_claimed_name_is_the_jobs_and_two_words_and_makes_its_folder(tmp_path: Path):
    name = record.claim_name(_job(tmp_path))
    job, adjective, animal = name.split("-")
    assert (job, adjective in words.ADJECTIVES, animal in words.ANIMALS) == ("tiny", True, True)
    assert (tmp_path / name).is_dir()


def test_equal_draws_at_the_same_time_give_different_names(tmp_path: Path):
    """Sixteen drivers draw the same words from the same seed: each name goes to one of them."""
    got: list[str] = []
    gate = threading.Barrier(16)

    def start() -> None:
        gate.wait()
        got.append(record.claim_name(_job(tmp_path), rng=random.Random(3)))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 16
    assert {folder.name for folder in tmp_path.iterdir()} == set(got)


def test_a_name_whose_metrics_are_still_here_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    first = record.claim_name(_job(tmp_path / "one"), rng=random.Random(3))
    paths.spool_folder(first, "driver")
    assert record.claim_name(_job(tmp_path / "two"), rng=random.Random(3)) != first


def test_names_differ_in_a_store_behind_a_url_too():
    store = "memory://names"
    got = [record.claim_name(_job(store), rng=random.Random(3)) for _ in range(5)]
    assert len(set(got)) == 5
    _write(store, got[0])
    assert Folder.open(store).child(got[0]).names() == ["run.json"]  # the claim is gone


def test_of_two_that_claim_behind_a_url_at_once_at_most_one_gets_it(monkeypatch: pytest.MonkeyPatch):
    """Every order of two writers and two listings: the one that lists last sees both claims."""
    for first_lists_early in (True, False):
        store = Folder.open(f"memory://race-{first_lists_early}")
        rival = f"{'.claim-'}{'f' * 32}"
        put = Folder.put

        def put_with_a_rival(
            folder: Folder, name: str, content: bytes, *, put=put, early=first_lists_early, rival=rival
        ) -> None:
            put(folder, name, content)
            if not early:  # the rival's file appears before the claimer lists
                put(folder, rival, b"")

        monkeypatch.setattr(Folder, "put", put_with_a_rival)
        assert store.claim("run") is first_lists_early
        monkeypatch.setattr(Folder, "put", put)
        if first_lists_early:
            assert store.claim("run") is False  # the second one finds it taken
        else:
            assert store.child("run").names() == [rival]  # the loser's claim is withdrawn


@given(
    st.lists(st.from_regex(r"[ab]{1,3}(-[ab]{1,3}){0,2}", fullmatch=True), unique=True),
    st.text("ab-", max_size=5),
)
def test_a_part_names_the_run_that_a_literal_reading_of_the_rule_does(names: list[str], text: str):
    if text in names:
        expected = {text}
    else:
        expected = {n for n in names if n[: len(text)] == text}
        if not expected:
            ends = {n: [n[i + 1 :] for i in range(len(n)) if n[i] == "-"] for n in names}
            expected = {n for n in names if any(end[: len(text)] == text for end in ends[n])}
    if len(expected) > 1:
        with pytest.raises(ConfigError) as error:
            match_run(text, names)
        assert all(name in str(error.value) for name in sorted(expected)[:8])
    else:
        assert match_run(text, names) == next(iter(expected), None)


def test_an_ambiguous_part_lists_the_runs(tmp_path: Path):
    _write(tmp_path, "swin-calm-heron", "swin-swift-otter", OLD)
    with pytest.raises(ConfigError, match=r"swin names 2 runs: swin-calm-heron, swin-swift-otter\. "):
        record.read(str(tmp_path), "swin")
    assert record.read(str(tmp_path), "swin-s").name == "swin-swift-otter"
    assert record.read(str(tmp_path), "otter").name == "swin-swift-otter"
    assert record.read(str(tmp_path), "ada").name == OLD


def test_a_whole_name_wins_over_names_that_begin_with_it(tmp_path: Path):
    _write(tmp_path, "sweep-calm-owl-1", "sweep-calm-owl-10")
    assert find_run(tmp_path, "sweep-calm-owl-1") == "sweep-calm-owl-1"


def test_folders_without_a_run_have_no_say(tmp_path: Path):
    _write(tmp_path, "swin-calm-heron")
    (tmp_path / "swin-cache").mkdir()
    assert find_run(tmp_path, "swin") == "swin-calm-heron"


def test_the_job_to_resume_gets_the_whole_name(tmp_path: Path):
    _write(tmp_path, "swin-calm-heron")
    prepared = prepare(override(_job(tmp_path), {"store.resume": "calm"}))
    assert prepared.job.store.resume == "swin-calm-heron"
    assert prepared.run.name == "swin-calm-heron"


def test_an_old_record_is_read_and_a_newer_one_too(tmp_path: Path):
    old = {"name": OLD, "mlflow_run_id": "f00", "tracking_uri": "sqlite:///x"}
    for name, content in ((OLD, old), ("new", old | {"name": "new", "colour": "blue"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(content))
    assert record.read(str(tmp_path), OLD) == record.RunRecord(**old)
    assert record.read(str(tmp_path), "new").mlflow_run_id == "f00"


def test_a_new_record_keeps_job_time_and_hash(tmp_path: Path):
    new = record.RunRecord.new(
        record.Choice("tiny-calm-owl", None, "0a1b2c3d"), _job(tmp_path), mlflow_run_id=None, tracking_uri=""
    )
    record.write(str(tmp_path), new)
    content = json.loads((tmp_path / "tiny-calm-owl" / "run.json").read_text())
    assert content["job"] == "tiny"
    assert content["started"].endswith("+00:00")
    assert content["hash"] == "0a1b2c3d"


def test_a_drawn_name_has_a_random_hash_and_a_given_one_always_the_same(tmp_path: Path):
    drawn = [record.choose(_job(tmp_path / store)).hash for store in ("one", "two")]
    assert len(bytes.fromhex(f"{drawn[0]}{drawn[1]}")) == 8
    assert drawn[0] != drawn[1]
    named = override(_job(tmp_path), {"store.run": "night"})
    assert record.choose(named).hash == record.choose(named).hash == record.hash_name("night")


def test_folders_are_found_by_path_by_name_and_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "outputs", "swin-calm-heron")
    _write(tmp_path / "elsewhere", "detr-bold-yak")
    for where in ("outputs/swin-calm-heron", "outputs/sw", "swin-calm-heron", "calm", "./outputs/heron"):
        found = find_folder(where)
        assert found is not None
        assert found.local == tmp_path / "outputs" / "swin-calm-heron"
    assert require_folder("elsewhere/bold").name == "detr-bold-yak"
    with pytest.raises(CheckpointError, match="bold is no folder, and no run in outputs"):
        require_folder("bold")


def test_trials_are_numbered():
    assert trial_name("tiny_sweep-calm-owl", "t12") == "tiny_sweep-calm-owl-t12"


def test_the_name_of_a_sweep_is_not_given_to_a_run(tmp_path: Path):
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="has a sweep of that name"):
        record.choose(override(_job(tmp_path), {"store.run": "night"}))
