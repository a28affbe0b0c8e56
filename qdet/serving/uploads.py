"""The images of a request: its body or the files of its form, within limits that hold while they arrive."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from qdet.data.image.decode import kind_of, size_hw
from qdet.data.image.orientation import may_have_exif
from qdet.errors import DataError
from qdet.inference.pictures import Picture, open_picture
from qdet.serving.refusal import Refusal
from qdet.serving.settings import Limits

FORM = "multipart/form-data"
IMAGES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Kinds of images that are answered, with their media types."""
ANY = "application/octet-stream"


async def read_images(request: Request, limits: Limits) -> list[bytes]:
    """Return the bytes of the images that a request sends; its content type says how, not of what kind.

    Raises:
        Refusal: 400 for a body that is empty or cut off, or a broken form; 408 for one that takes too long;
            413 for too many bytes or files; 415 for another content type.
    """
    kind = request.headers.get("content-type", ANY).partition(";")[0].strip().lower()
    if kind not in {FORM, ANY, "image/jpg", *IMAGES.values()}:
        raise Refusal(415, f"cannot read {kind[:100] or 'that'}; send {_kinds()}, or {FORM} with files")
    try:
        async with asyncio.timeout(limits.upload_seconds):
            chunks = _limited(request, limits.max_bytes)
            if kind == FORM:
                return await _read_form(request.headers, chunks, limits)
            return [_full(b"".join([chunk async for chunk in chunks]), "the body")]
    except TimeoutError:
        raise Refusal(408, f"the request did not arrive within {limits.upload_seconds:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended before the request did") from None


def open_image(data: bytes, number: int, limits: Limits) -> Picture:
    """Open an uploaded image by its header; nothing large is decoded before its size is known.

    Raises:
        Refusal: 413 for too many pixels, 415 for another kind of file, 422 for a damaged header.
    """
    name = f"image {number}"
    try:
        known = kind_of(data, name=name) in IMAGES
    except DataError:
        known = False
    if not known:
        raise Refusal(415, f"{name} is no JPEG, PNG or WebP image ({len(data)} bytes)")
    try:
        height, width = size_hw(data, name=name)
        if height * width > limits.max_pixels:
            raise Refusal(
                413, f"{name} has {width}x{height} pixels; at most {limits.max_pixels:,} pixels are decoded"
            )
        return open_picture(data, number=number, max_pixels=limits.max_pixels)
    except DataError as error:
        raise Refusal(422, str(error)) from None


def opens_at_once(data: bytes) -> bool:
    """True where `open_image` takes microseconds: a JPEG without EXIF, which Pillow need not look through."""
    return data.startswith(b"\xff\xd8\xff") and not may_have_exif(data, "jpg")


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, and stop at `most` bytes whatever its header announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
        raise _too_large(most)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        yield chunk


async def _read_form(headers: Headers, chunks: AsyncGenerator[bytes, None], limits: Limits) -> list[bytes]:
    parser = _FormParser(headers, chunks, max_files=limits.max_files, max_fields=16)
    parser.spool_max_size = limits.max_bytes  # never on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        too_many = error.message.startswith("Too many")
        raise Refusal(413 if too_many else 400, f"the form cannot be read: {error.message}") from None
    except (ValueError, LookupError) as error:  # undecodable headers of a part
        raise Refusal(400, f"the form cannot be read: {error}") from None
    if not parser.complete:
        raise Refusal(400, "the form ends before its closing boundary")
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise Refusal(400, 'the form has no file; send each as a part with a filename="..."')
    return [_full(await file.read(), f"image {number}") for number, file in enumerate(files)]


class _FormParser(MultiPartParser):
    """Notes whether the closing boundary came."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


def _full(data: bytes, what: str) -> bytes:
    if not data:
        raise Refusal(400, f"{what} is empty; send the bytes of {_kinds()}")
    return data


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most:,} bytes", {"Connection": "close"})


def _kinds() -> str:
    return "a JPEG, PNG or WebP image"
