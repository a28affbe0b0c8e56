"""Video through PyAV: frames in, drawn frames out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from qdet.data.image.judge import check_count
from qdet.errors import DataError
from qdet.inference.pictures import FLAG
from qdet.storage.urls import is_url

CODECS = ("libx264", "mpeg4")
"""Encoders of drawn videos, the first that PyAV was built with."""
TOLERANCE = 0.9
"""Share of the frames, where only their number by duration and rate is known, that a whole video has."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says."""

    rate: Fraction
    """Frames per second."""
    frames: int
    """How many there should be; 0 where the header does not say."""


class VideoReader:
    """Frames of a video, decoded one by one; a context manager.

    Raises:
        DataError: It is no video, or its frames are too large.
    """

    def __init__(self, name: str, *, max_pixels: int) -> None:
        import av

        self.name = name
        if not is_url(name) and not Path(name).is_file():
            raise DataError(f"{name} is not there; give the path or URL of a video")
        with _explain(name):
            self._container = av.open(name)
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{name} has no pictures; give a video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        check_count(self._stream.height, self._stream.width, max_pixels, name=name, flag=FLAG)
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        seconds = float(self._container.duration or 0) / 1e6
        self.info = VideoInfo(Fraction(rate), self._stream.frames or round(seconds * float(rate)))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yield frames in RGB.

        Raises:
            DataError: A frame cannot be decoded, or the video ends before its header says, after its last
                good frame.
        """
        count = 0
        with _explain(self.name):
            for frame in self._container.decode(self._stream):
                yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                count += 1
        if not count:
            raise DataError(f"{self.name} holds no frame that can be decoded")
        expected = self.info.frames if self._stream.frames else round(self.info.frames * TOLERANCE)
        if count < expected:
            raise DataError(f"{self.name} ends early: {count} of {self.info.frames} frames could be read")


class VideoWriter:
    """Writes frames of one size and rate; a context manager whose file is complete at its end."""

    def __init__(self, file: Path, rate: Fraction) -> None:
        self.file, self._rate = file, rate
        self._container: Any = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def write(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append a frame; an odd last row or column, which video formats do not have, is cut off."""
        import av

        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        self._container = self._container or self._open(frame.shape[1], frame.shape[0])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def _open(self, width: int, height: int) -> Any:
        import av

        container = av.open(str(self.file), "w")
        codec = next(name for name in CODECS if name in av.codecs_available)
        self._stream: Any = container.add_stream(codec, rate=self._rate.limit_denominator(1001))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        return container


@contextmanager
def _explain(name: str) -> Iterator[None]:
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        said = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{name} cannot be read as a video: {said}") from error
