"""What authors' files say beside tensors: command lines as their cluster scripts saved them."""

import pickle
from argparse import Namespace
from pathlib import Path, PosixPath, PurePosixPath

import numpy as np
import pytest
import torch

from qdet.backbones import unpickling
from qdet.backbones.weights import read_file
from qdet.convert.files import read
from qdet.convert.recognize import recognize
from qdet.errors import CheckpointError
from tests.support.published import small_checkpoint


def saved(tmp_path, args, model=None, **how) -> Path:
    file = tmp_path / "them.pth"
    torch.save({"model": model or {"a": torch.ones(2)}, "args": args}, file, **how)
    return file


@pytest.mark.parametrize("zipped", [True, False])
def test_paths_and_numbers_of_numpy_are_read_as_plain_ones(tmp_path, zipped):
    """As submitit leaves them: `output_dir` a path, others numpy's."""
    values = {"lr": np.float64(1e-4), "nheads": np.int64(4), "amp": np.bool_(True), "clip": np.float32(0.5)}
    values |= {"big": np.dtype(">i4").type(7), "z": np.complex64(1 + 2j)}
    args = Namespace(output_dir=PosixPath("/checkpoint/me/experiments/%j"), **values)
    file = saved(tmp_path, args, _use_new_zipfile_serialization=zipped)
    said = vars(read_file(file)["args"])
    assert said["output_dir"] == PurePosixPath("/checkpoint/me/experiments/%j")
    for name, value in values.items():
        assert said[name] == value
        assert type(said[name]) in (bool, int, float, complex)


def test_names_of_older_and_newer_libraries_are_known(tmp_path):
    names = {entry[1] for entry in unpickling.ALLOWED if isinstance(entry, tuple)}
    assert {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "pathlib.PosixPath"} <= names
    assert {"pathlib._local.PosixPath", "pathlib.WindowsPath"} <= names
    file = saved(tmp_path, Namespace(lr=np.float64(0.25)))
    content = file.read_bytes()
    old = np.float64(0.25).__reduce__()[0].__module__
    assert old.encode() in content
    assert vars(read_file(file)["args"]) == {"lr": 0.25}


class Objects:
    """Pickles as numpy's scalar of a type that holds objects."""

    def __reduce__(self):
        return np.float64(1).__reduce__()[0], (np.dtype("O"), b"\0" * 8)


class Short:
    """Pickles as a number of fewer bytes than its type has."""

    def __reduce__(self):
        return np.float64(1).__reduce__()[0], (np.dtype("f8"), b"\0\0")


class Runs:
    """Pickles as a call."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/qdet-must-not-exist"),)


@pytest.mark.parametrize("value", [Objects(), Short(), Runs()])
def test_what_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match="cannot be read as weights") as error:
        read_file(saved(tmp_path, Namespace(lr=value)))
    assert "weights_only" not in str(error.value)
    assert not Path("/tmp/qdet-must-not-exist").exists()


def test_number_types_refuse_all_but_numbers():
    for code in ("O", "V8", "S4", "U3", "M8", "m8", "O8", "f8,f8"):
        with pytest.raises(ValueError, match="no numbers"):
            unpickling.NumberType(code)
    for kind in (np.float16, np.int8, np.uint64, np.complex128):
        value = kind(3)
        again = pickle.loads(pickle.dumps(value))
        rebuilt = unpickling.number(unpickling.NumberType(np.dtype(kind).str[1:]), value.tobytes())
        assert rebuilt == again == value


def test_settings_of_dab_detr_are_taken_from_the_file(parity_dir, tmp_path):
    config, _, theirs = small_checkpoint(
        parity_dir, "dab_detr_r50", map_temperatures_yx=(12.0, 30.0), detections=77
    )
    said = {"nheads": 4, "pe_temperatureH": 12, "pe_temperatureW": 30, "num_select": np.int64(77)}
    found = recognize(*read(saved(tmp_path, Namespace(**said, output_dir=PosixPath("x")), theirs)))
    assert found.detector == config
    plain = recognize(*read(saved(tmp_path, Namespace(nheads=4), theirs))).detector
    assert (plain.map_temperatures_yx, plain.detections) == ((20.0, 20.0), 300)


@pytest.mark.parametrize(
    ("switch", "value"),
    [("position_embedding", "learned"), ("transformer_activation", "relu"), ("masks", True)],
)
def test_a_switch_that_no_detector_here_has_is_named(tmp_path, switch, value):
    with pytest.raises(CheckpointError, match=rf"--{switch} {value}, which no detector here has"):
        read(saved(tmp_path, Namespace(**{switch: value})))
