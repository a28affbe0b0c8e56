"""Opening what a URL names: one way for shards, checkpoints, runs and conversions.

fsspec opens it. Object stores, and what fsspec lacks a package for, go through pyarrow's file systems, which
Ray uses for the same URLs: one way to give credentials and endpoints, and nothing to install.
"""

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from qdet.storage.network import http_options

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def filesystem(url: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of a URL and the path in it, without a slash at its end.

    Args:
        url: With its scheme; a path of this machine needs no file system.

    Raises:
        ValueError: Nothing that is installed here opens such a URL.
    """
    from fsspec.core import url_to_fs

    if url.startswith(("s3://", "gs://")):
        scheme, place, path, query, _ = urlsplit(url)
        if not place:
            raise ValueError("it names no bucket")
        files, bucket = _arrow(urlunsplit((scheme, place, "", query, "")), os.getpid())
        return files, f"{bucket}{path}".rstrip("/")
    try:
        files, path = url_to_fs(url, **http_options(url))
    except ImportError:
        files, path = _arrow(url, os.getpid())
    except OSError as error:
        raise ValueError(str(error)) from error
    return files, path.rstrip("/")


@lru_cache(maxsize=16)
def _arrow(url: str, process: int) -> "tuple[AbstractFileSystem, str]":
    """Open a bucket once per process: finding out its region takes a question to the server."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        files, path = FileSystem.from_uri(url)
    except (ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    wrapped: Any = ArrowFSWrapper(files)
    return wrapped, path
