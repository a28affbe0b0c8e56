"""Writing in the background: training continues, copies do not change, failures are reported and counted."""

import threading

import pytest
import torch

from qdet.checkpoint import Checkpoint, Piece, Retention, RunFolder, open_folder, verify
from qdet.checkpoint.pieces import cut, even_shares
from qdet.errors import CheckpointError
from qdet.training.checkpointing import save as module
from qdet.training.checkpointing.save import CheckpointWriter
from qdet.training.distributed import World, join
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import Recorder, assert_same, checkpoint, on_ranks, tiny_job, train_all
from tests.support.small_checkpoints import contents, tensors


def writer_in(folder, world=None) -> CheckpointWriter:
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    return CheckpointWriter(RunFolder(open_folder(folder)), world or alone, Retention(last=5))


def save(writer: CheckpointWriter, step: int, whole=None) -> float:
    """Save small tensors as a training would."""
    world, whole = writer.world, whole or tensors(step)
    shares = even_shares(whole, rank=world.rank, world=world.size)
    pieces = [Piece(name, part.start, cut(whole[name], part)) for name, part in shares.items()]
    rest = contents(whole, world=world.size, step=step, attempt=writer.attempt)
    return writer.save(step, lambda: pieces, lambda: rest)


def break_disk(writer: CheckpointWriter, step: int) -> None:
    """Let the share of this rank at `step` go to a device that is always full."""
    place = writer.run.at(step).local
    place.mkdir(parents=True, exist_ok=True)
    (place / f"rank_{writer.world.rank:05d}.{writer.attempt}.safetensors").symlink_to("/dev/full")


class Telling(LocalReporter):
    """Sets an event when a step is reported."""

    def __init__(self, step):
        super().__init__()
        self.step, self.there = step, threading.Event()

    def progress(self, progress):
        if progress.step == self.step:
            self.there.set()


def test_steps_continue_while_a_slow_store_writes(demo_shards, tmp_path, monkeypatch):
    job = tiny_job(demo_shards, **{"train.steps": 6, "train.checkpoint_every": 2})
    reporter, write_share = Telling(step=4), module.write_share
    waited = []

    def slow(folder, **share):
        if folder.name == "step_000002":
            waited.append(reporter.there.wait(120))
        write_share(folder, **share)

    train_all(1, {"quick": job}, tmp_path)
    monkeypatch.setattr(module, "write_share", slow)
    recorder = Recorder()
    train(job, run=Run(name="slow", store=str(tmp_path)), reporter=reporter, tracker=recorder)
    assert waited == [True]  # two steps were made before the checkpoint of step 2 was written
    for step in (2, 4, 6):
        assert_same(checkpoint(tmp_path, "slow", step), checkpoint(tmp_path, "quick", step))
    stalls = {
        step: values["perf/checkpoint_stall"]
        for step, values in recorder.points
        if "perf/checkpoint_stall" in values
    }
    assert stalls.keys() == {2, 4, 6}


def test_a_checkpoint_holds_the_state_at_the_time_of_saving(tmp_path, monkeypatch):
    gate, write_share = threading.Event(), module.write_share
    monkeypatch.setattr(module, "write_share", lambda *a, **k: gate.wait(60) and write_share(*a, **k))
    writer, live = writer_in(tmp_path), tensors(1)
    save(writer, 1, live)
    for tensor in live.values():
        tensor.zero_()
    gate.set()
    writer.wait()
    saved = Checkpoint(writer.run.at(1))
    for name, tensor in tensors(1).items():
        assert saved.whole(name).equal(tensor) or not tensor.numel()


def test_one_checkpoint_is_written_at_a_time(tmp_path, monkeypatch):
    running, most, write_share = [], [], module.write_share

    def counted(folder, **share):
        running.append(folder)
        most.append(len(running))
        write_share(folder, **share)
        running.remove(folder)

    monkeypatch.setattr(module, "write_share", counted)
    writer = writer_in(tmp_path)
    for step in range(1, 6):
        save(writer, step)
    writer.wait(at_end=True)
    assert most == [1] * 5
    assert writer.run.steps() == [1, 2, 3, 4, 5]


def test_a_full_disk_costs_one_checkpoint_and_no_training(tmp_path, capsys):
    writer = writer_in(tmp_path)
    save(writer, 1)
    break_disk(writer, 2)
    save(writer, 2)
    save(writer, 3)
    writer.wait(at_end=True)
    said = capsys.readouterr().out
    assert "step_000002 could not be written: OSError: [Errno 28] No space left on device" in said
    assert "training continues" in said
    for step in (1, 3):
        verify(writer.run.at(step))
    assert 2 not in writer.run.steps()  # what was torn is gone with the next that is whole


def test_two_failures_in_a_row_or_a_last_one_end_training(tmp_path):
    writer = writer_in(tmp_path / "twice")
    for step in (1, 2):
        break_disk(writer, step)
        save(writer, step)
    with pytest.raises(CheckpointError, match=r"step_000002 could not .* No space left .*--store\.path"):
        save(writer, 3)
    writer = writer_in(tmp_path / "last")
    save(writer, 1)
    break_disk(writer, 2)
    save(writer, 2)
    with pytest.raises(CheckpointError, match="step_000002"):
        writer.wait(at_end=True)
    verify(writer.run.at(1))


def test_a_training_that_ends_by_an_error_leaves_its_last_checkpoint(demo_shards, tmp_path):
    class Stop(LocalReporter):
        def progress(self, progress):
            if progress.step == 3:
                raise KeyboardInterrupt

    job = tiny_job(demo_shards, **{"train.steps": 6, "train.checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        train(job, run=Run(name="stopped", store=str(tmp_path)), reporter=Stop(), tracker=Recorder())
    assert checkpoint(tmp_path, "stopped", 2).state.step == 2


def on_a_full_rank(folder):
    """What two ranks do where the disk of one is full; each writes down what it saw."""
    world = join("cpu", timeout=20)
    writer = writer_in(folder, world)
    for step in (1, 2, 3):
        if world.rank == 1 and step != 1:
            break_disk(writer, step)
        save(writer, step)
    try:
        writer.wait()
    except CheckpointError as error:
        (folder / f"{world.rank}.txt").write_text(str(error))


def test_ranks_agree_on_a_failure_of_one_and_on_its_cause(tmp_path):
    on_ranks(2, on_a_full_rank, tmp_path)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "step_000003 could not be written: OSError: [Errno 28] No space left on device" in said[0]
    verify(RunFolder(open_folder(tmp_path)).at(1))
