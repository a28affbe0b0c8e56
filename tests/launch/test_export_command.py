"""`qdet export`: what it writes, says and refuses."""

import subprocess
import sys

import pytest

import qdet
from qdet.__main__ import main
from tests.support.loaded_models import photo, small_model


@pytest.fixture
def weights(tmp_path) -> str:
    """A model, as a file."""
    return str(qdet.export(small_model(), tmp_path / "model.safetensors").path)


def test_a_model_is_written_and_said_so(weights, tmp_path, capsys):
    file = tmp_path / "copies" / "copy.safetensors"
    main(["export", weights, "--to", str(file)])
    said = capsys.readouterr()
    assert said.out == f"wrote {file}, and beside it copy.json\n"
    assert f"{weights}: weights after step 7, val/AP 0.2500" in said.err
    found, wanted = (qdet.load(path).predict(photo(), score=0.0) for path in (file, weights))
    assert found.scores.tolist() == wanted.scores.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_graph_is_written_with_how_far_it_is_from_pytorch(weights, tmp_path, ending, capsys):
    main(["export", weights, "--to", str(tmp_path / f"model{ending}")])
    assert "in 24 images its scores differ from PyTorch's by at most" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to", "model.engine"], "ConfigError: --to model.engine: the format .engine does not exist; give"),
        (["--to", "m.safetensors", "--form", "raw"], "ConfigError: --form raw is for .onnx and .pt2 files"),
    ],
)
def test_a_wrong_format_is_refused_before_a_model_is_loaded(flags, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(["export", "runs/not-there", *flags])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom qdet.__main__ import main\n"
        "try: main(['export', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, stdout=subprocess.DEVNULL)
