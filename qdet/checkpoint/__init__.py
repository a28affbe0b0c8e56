"""Checkpoints: tensors by name in flat pieces, JSON, and folders anywhere; no collectives, no pickle.

    <run>/step_000500/
        rank_00000.3f2a9c1b.safetensors   the pieces of every tensor that rank 0 writes
        rank_00001.3f2a9c1b.safetensors
        tensors.3f2a9c1b.json             shape of every whole tensor, by name
        state.3f2a9c1b.json               progress of the run, and what must not change on resume
        job.3f2a9c1b.json                 the settings, flat
        manifest.json                     bytes and sha256 of every file above; written last

Without its manifest a folder is no checkpoint. The letters name the attempt that wrote the files: workers
that were presumed dead but are not cannot touch the files of their replacements.

DeepSpeed's own checkpoints are tied to the number of ranks and the ZeRO stage, and their `latest` file is
written before all ranks are done; these are written by all ranks at once, without communication, and read
by any number of ranks at any stage.
"""

from qdet.checkpoint.manifest import Manifest, verify
from qdet.checkpoint.pieces import Piece
from qdet.checkpoint.reading import Checkpoint
from qdet.checkpoint.run_folder import Retention, RunFolder, open_folder
from qdet.checkpoint.state import TrainState
from qdet.checkpoint.writing import write_whole

__all__ = [
    "Checkpoint",
    "Manifest",
    "Piece",
    "Retention",
    "RunFolder",
    "TrainState",
    "open_folder",
    "verify",
    "write_whole",
]
