"""Files anywhere: paths, URLs, locks, atomic writes. In: bytes by name. Out: what the bytes mean."""

from qdet.storage.folder import Folder

__all__ = ["Folder"]
