"""Objects left out of denoising are said once, with the flag that decides it."""

from qdet.data.denoising.config import DenoisingConfig
from qdet.training.health.crowded import DROPPED, CrowdedImages


def test_objects_without_extra_queries_are_said_once(capsys):
    crowded = CrowdedImages(DenoisingConfig(kind="plain", max_queries=7))
    crowded.look({}, 1)
    crowded.look({DROPPED: 0.0}, 2)
    assert capsys.readouterr().out == ""
    crowded.look({DROPPED: 2.5}, 3)
    crowded.look({DROPPED: 4.0}, 4)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("up to step 3, 2.5 objects")
    assert "--detector.denoising.max-queries 7" in said
