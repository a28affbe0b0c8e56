"""Decoding: RGB as Pillow gives it, and no garbage for damaged files."""

import io

import numpy as np
import pytest
from PIL import Image

from qdet.data.image.decode import decode, kind_of, size_hw
from qdet.errors import DataError


def encoded(kind, mode="RGB", **how):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "extension"),
    [
        ("JPEG", "RGB", "jpg"),
        ("JPEG", "L", "jpg"),
        ("PNG", "RGB", "png"),
        ("PNG", "RGBA", "png"),
        ("PNG", "P", "png"),
        ("PNG", "L", "png"),
        ("WEBP", "RGB", "webp"),
        ("BMP", "RGB", "bmp"),
        ("GIF", "P", "gif"),
        ("TIFF", "RGB", "tif"),
    ],
)
def test_every_kind_decodes_as_pillow_does(kind, mode, extension):
    data = encoded(kind, mode)
    assert kind_of(data, name="x") == extension
    assert size_hw(data, name="x") == (20, 30)
    np.testing.assert_array_equal(
        decode(data, name="x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_cmyk_jpeg_becomes_rgb():
    data = encoded("JPEG", "CMYK")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert abs(decode(data, name="x") - expected).mean() < 3


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded("JPEG", exif=exif), name="x").shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_or_damaged_file_is_named(kind):
    data = encoded(kind)
    with pytest.raises(DataError, match="picture 7 is no readable"):
        decode(data[: len(data) // 2], name="picture 7")
    with pytest.raises(DataError, match="picture 7 is no JPEG"):
        decode(b"<html>not found</html>", name="picture 7")


def test_a_jpeg_with_a_damaged_body_is_not_decoded_to_garbage():
    data = bytearray(encoded("JPEG", quality=95))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd5" * 20
    with pytest.raises(DataError, match="no readable jpg"):
        decode(bytes(data), name="x")


def test_sixteen_bits_are_refused():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(DataError, match="8 bits"):
        decode(file.getvalue(), name="x")
