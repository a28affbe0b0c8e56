"""Copy a checkpoint into another run: the same bytes in every file, under names of the run that gets it."""

import re
from dataclasses import replace

from qdet.checkpoint.manifest import MANIFEST, Manifest, copy_and_check, read_manifest
from qdet.checkpoint.term import name_attempt
from qdet.checkpoint.writing import put_manifest
from qdet.errors import CheckpointError
from qdet.storage import Folder
from qdet.storage.lease import Fence


def copy_checkpoint(source: Folder, to: Folder, *, fence: Fence | None = None) -> Manifest:
    """Copy a checkpoint over whatever `to` holds; return the manifest of the copy.

    Every byte is compared with the source's manifest on the way. Until the copy is complete, what `to` held
    before counts; a copy that was interrupted is made again as a whole.

    Args:
        source: Folder of the checkpoint.
        to: Folder of the same step in the other run.
        fence: Term of the lease of the other run, where one is held.

    Raises:
        CheckpointError: The source is not intact, or `to` cannot be written.
        LeaseError: Another process has taken over the other run.
    """
    manifest = read_manifest(source)
    attempt = name_attempt(fence)
    names = {name: _rename(name, manifest.attempt, attempt) for name in manifest.files}
    try:
        for name, new in names.items():
            with to.writer(new, atomic=False) as file:
                copy_and_check(source, name, manifest.files[name], file)
        files = {names[name]: printed for name, printed in manifest.files.items()}
        copied = replace(manifest, attempt=attempt, files=files)
        put_manifest(to, copied.render(), fence)
        to.remove_each([name for name in to.names() if name != MANIFEST and name not in files])
    except OSError as error:
        raise CheckpointError(f"{source} cannot be copied to {to}: {error}") from error
    return copied


def is_copy(one: Manifest, other: Manifest) -> bool:
    """Whether two checkpoints hold the same bytes, whatever their files are called."""
    return one.step == other.step and _prints(one) == _prints(other)


def _prints(manifest: Manifest) -> dict[str, str]:
    return {_rename(name, manifest.attempt, "x"): printed.sha256 for name, printed in manifest.files.items()}


def _rename(name: str, attempt: str, new: str) -> str:
    """Return the name of a checkpoint's file with the letters of another attempt."""
    return re.sub(rf"\.{re.escape(attempt)}\.(safetensors|json)$", rf".{new}.\1", name)
