"""`qdet checkpoint`: its report on whole, damaged and incomplete checkpoints, and its export."""

import json

import pytest
import torch
from safetensors.torch import load_file

from qdet.__main__ import main
from qdet.checkpoint import RunFolder, open_folder
from tests.support.small_checkpoints import write


@pytest.fixture
def run(tmp_path):
    """A run with two whole checkpoints, a damaged and an incomplete one."""
    found = RunFolder(open_folder(tmp_path / "run"))
    write(found.at(100), step=100, world=1)
    write(found.at(200), step=200, seed=2, metrics={"val/AP": 0.3125})
    write(found.at(300), step=300)
    next(found.at(300).local.glob("rank_00001*")).write_bytes(b"")
    write(found.at(400), step=400)
    (found.at(400).local / "manifest.json").unlink()
    return found


def test_every_checkpoint_is_listed_and_the_newest_whole_one_is_taken(run, capsys):
    main(["checkpoint", str(run.folder)])
    head, *rows, end = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "size", "ranks", "ZeRO", "val/AP"]
    assert [row.split()[0] for row in rows] == [f"step_000{n}00" for n in (1, 2, 3, 4)]
    assert rows[0].split()[3:] == ["1", "0", "-", "good"]
    assert rows[1].split()[3:] == ["2", "0", "0.3125", "good"]
    assert "rank_00001.aaaa.safetensors is damaged: it has 0 bytes" in rows[2]
    assert "no manifest.json" in rows[3]
    assert end == f"training resumes from {run.at(200)}"


def test_json_output_says_the_same(run, capsys):
    main(["checkpoint", str(run.folder), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["chosen"] == str(run.at(200))
    assert [one["good"] for one in said["checkpoints"]] == [True, True, False, False]
    assert said["checkpoints"][1]["metrics"] == {"val/AP": 0.3125}
    assert said["checkpoints"][1]["step"] == 200


def test_one_checkpoint_can_be_looked_at_alone(run, capsys):
    main(["checkpoint", str(run.at(100))])
    assert "step_000100" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", str(run.at(300))])
    assert left.value.code == 1
    said = capsys.readouterr()
    assert "resumes from none" in said.out
    assert "CheckpointError: none of 1 checkpoints is whole" in said.err


def test_a_folder_without_checkpoints_is_reported(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", str(tmp_path)])
    assert left.value.code == 1
    assert f"{tmp_path} holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "kind"), [([], "average"), (["--ema"], "average"), (["--weights"], "weights")]
)
def test_the_model_is_one_file_with_its_job_beside_it(run, tmp_path, flags, kind, capsys):
    file = tmp_path / "models" / "model.safetensors"
    main(["checkpoint", str(run.folder), "--export", str(file), *flags])
    written = write(open_folder(tmp_path / "same"), step=200, seed=2)
    found = load_file(file)
    assert found.keys() == {name.removeprefix("weights/") for name in written if name.startswith("weights/")}
    assert torch.equal(found["stem.weight"], written[f"{kind}/stem.weight"])
    assert torch.equal(found["index"], written["weights/index"])
    beside = json.loads(file.with_suffix(".json").read_text())
    assert (beside["step"], beside["job"]["name"]) == (200, "x")
    assert beside["categories"] == {"names": ["a"], "ids": [7]}
    assert str(file) in capsys.readouterr().out


def test_a_missing_average_is_not_replaced_by_weights(tmp_path, capsys):
    from qdet.checkpoint import write_whole
    from tests.support.small_checkpoints import state, tensors

    weights = {name: t for name, t in tensors().items() if name.startswith("weights/")}
    write_whole(open_folder(tmp_path / "c"), weights, state=state(), job={})
    with pytest.raises(SystemExit):
        main(["checkpoint", str(tmp_path / "c"), "--export", str(tmp_path / "m.safetensors"), "--ema"])
    assert "holds no averaged weights" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", str(tmp_path / "c"), "--ema"])
    assert left.value.code == 2


@pytest.mark.parametrize("name", ["model.onnx", "model", "model.pth"])
def test_a_model_is_exported_under_its_own_ending_alone(run, tmp_path, name, capsys):
    file = tmp_path / name
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", str(run.folder), "--export", str(file)])
    assert left.value.code == 2
    assert f"qdet export {run.folder} --to {file}" in capsys.readouterr().err.replace("\n", " ")
    assert not file.exists()


def test_an_exported_model_has_the_rights_of_any_new_file(run, tmp_path):
    file, plain = tmp_path / "model.safetensors", tmp_path / "plain"
    main(["checkpoint", str(run.folder), "--export", str(file)])
    plain.touch()
    assert file.stat().st_mode == file.with_suffix(".json").stat().st_mode == plain.stat().st_mode
