"""Decoding: RGB as Pillow gives it, and no garbage for damaged files."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.annotations.coco import Image as Annotated
from data_prep.annotations.image_checks import Checks, check_image
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


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(kind):
    grey = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, kind)
    expected = np.round(grey / 65535 * 255)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(decode(file.getvalue(), name="x"), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused_by_their_header(dtype):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, dtype=dtype)).save(file, "TIFF")
    for read in (decode, size_hw):
        with pytest.raises(DataError, match=r"x is no readable tif image: its pixels are .* 8 or 16 bits"):
            read(file.getvalue(), name="x")


def test_bytes_behind_the_last_pixel_of_a_jpeg_change_nothing():
    for how in ({}, {"progressive": True}, {"quality": 95, "subsampling": 0}):
        data = encoded("JPEG", **how)
        padded = data[:-2] + bytes(range(1, 200)) + data[-2:]
        with pytest.raises(ValueError, match="extraneous bytes"):
            simplejpeg.decode_jpeg(padded)
        np.testing.assert_array_equal(decode(padded, name="x"), decode(data, name="x"))
        np.testing.assert_array_equal(decode(data + b"more", name="x"), decode(data, name="x"))


KINDS = st.sampled_from(
    [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("WEBP", mode) for mode in ("RGB", "RGBA")]
    + [("TIFF", mode) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "I", "F")]
    + [("BMP", "RGB"), ("GIF", "P")]
)
DAMAGES = st.sampled_from(["none", "cut", "cut by one", "padded", "appended"])


@settings(max_examples=200, deadline=None)
@given(KINDS, DAMAGES, st.floats(0.05, 0.95))
def test_what_conversion_accepts_training_reads(kind, damage, where):
    format, mode = kind
    deep = mode in ("I", "I;16", "F")
    data = bytearray(_deep(format, mode) if deep else encoded(format, mode))
    at = int(where * len(data))
    data = {
        "cut": data[:at],
        "cut by one": data[:-1],
        "padded": data[:-2] + b"0123456789" + data[-2:],
        "appended": data + b"0123456789",
    }.get(damage, data)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(data)
        image = Annotated(1, "a", width=30, height=20, boxes=0, crowds=0, annotation=b"{}")
        try:
            accepted = check_image(Path(folder), image, Checks(max_pixels=10_000, decode=False))
        except DataError:
            return
    assert decode(accepted.data, name="x").shape == (20, 30, 3)


def _deep(format, mode):
    file = io.BytesIO()
    dtype = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
    Image.fromarray(np.arange(600).reshape(20, 30).astype(dtype)).save(file, format)
    return file.getvalue()
