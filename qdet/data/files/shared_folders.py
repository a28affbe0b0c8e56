"""The folders of `--data.cache`, of which several users may share one."""

import os
import pwd
from pathlib import Path

from qdet.errors import DataError
from qdet.storage.process_locks import share


def make_shared(folder: Path, *, cache: Path) -> None:
    """Make a folder inside a cache, with the rights of the cache, unless it is there.

    Args:
        folder: The cache, or inside of it.
        cache: What `--data.cache` names.

    Raises:
        DataError: It cannot be made, or this user may not write there.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            share(folder)
    except PermissionError:
        pass  # explained below
    except OSError as error:
        raise DataError(
            f"--data.cache {cache} cannot be made: {error.strerror or error}; name another folder"
        ) from error
    for one in (cache, folder):
        if not os.access(one, os.R_OK | os.W_OK | os.X_OK):
            raise DataError(_explain(cache, one))


def _explain(cache: Path, folder: Path) -> str:
    if not folder.exists():
        return f"--data.cache {cache} cannot be made: Permission denied; name another folder"
    me, owner = _name(os.geteuid()), _name(folder.stat().st_uid)
    return (
        f"--data.cache {cache}: {folder} belongs to {owner}, and {me} may not write there. Let its owner "
        f"share it (chgrp -R GROUP {cache}; chmod -R g+rwXs {cache}), or name another folder"
    )


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # a container's user may have no name
        return f"user {user}"
