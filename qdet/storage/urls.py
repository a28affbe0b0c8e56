"""Names of shards: a path on this machine or a URL, one by one or as a pattern.

    data/coco/train2017                               a folder
    data/mine/train-{000000..000146}.tar              a pattern, as bash expands it
    {a,b}.tar::more/c.tar                             several patterns, joined as webdataset joins them
    s3://bucket/coco/train2017                        a folder behind a URL
    https://host/mine/train-{000000..000146}.tar

`pipe:COMMAND` is refused here: it would run what a setting or a manifest says. What may be run, and where,
is in `qdet.data.files.pipes`.
"""

import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from qdet.errors import DataError
from qdet.storage.braces import expand_braces

_PIPE = "pipe"


def is_pipe(name: str) -> bool:
    """True for a command whose output is a shard."""
    return name.partition(":")[0] == _PIPE


def is_url(name: str) -> bool:
    """True for s3://, gs://, https:// and the like."""
    return "://" in name


def checked(name: str) -> str:
    """Return the name of one shard or folder, a file:// URL as a path; DataError where it cannot be read."""
    if is_pipe(name):
        raise DataError(
            f"{name}: commands are not run here; name a path or a URL such as s3:// or https://. Only "
            "--data.train may name some, with --data.reading sequential and --data.allow-pipes"
        )
    if not is_url(name):
        return str(Path(name).expanduser())
    scheme = name.partition("://")[0].lower()
    if scheme == "file":
        return urllib.request.url2pathname(urllib.parse.urlsplit(name).path)
    from fsspec import available_protocols

    if scheme not in available_protocols():
        raise DataError(f"{name}: no way to read {scheme}:// is known; use s3://, gs://, https:// or a path")
    return name


def join(base: str, name: str) -> str:
    """Where `name` of a manifest in folder `base` lies; it may be a path or URL of its own."""
    if is_url(name) or is_pipe(name):
        return checked(name)
    if Path(name).is_absolute():
        return name
    if ".." in PurePosixPath(name).parts:
        raise DataError(f"{base}: its manifest names a shard {name!r} outside of it; fix the manifest")
    if not is_url(base):
        return str(Path(base) / name)
    folder, question, query = base.partition("?")  # credentials and endpoints stand behind the mark
    return f"{folder.rstrip('/')}/{name}{question}{query}"


def is_below(base: str, url: str) -> bool:
    """Whether a URL lies in the folder `base`, a URL too; one that climbs out (`%2e%2e` too) does not."""
    folder, found = urllib.parse.urlsplit(base), urllib.parse.urlsplit(url)
    if (folder.scheme, folder.netloc) != (found.scheme, found.netloc):
        return False
    path = urllib.parse.unquote(found.path)
    return path.startswith(f"{urllib.parse.unquote(folder.path).rstrip('/')}/") and ".." not in path.split(
        "/"
    )


def is_pattern(source: str) -> bool:
    """True if `source` names tars, and not a folder of them."""
    return is_pipe(source) or "{" in source or "::" in source or source.partition("?")[0].endswith(".tar")


def expand(source: str, check: Callable[[str], str] = checked) -> list[str]:
    """List the tars that a pattern names, in its order, each as `check` returns it."""
    try:
        listed = [name for part in source.split("::") for name in expand_braces(part)]
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    names = [check(name) for name in listed]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise DataError(f"{source} names {min(twice)} more than once; name every shard once")
    return names
