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
from qdet.data.image.decode import check_pixels, decode, kind_of, size_hw
from qdet.data.image.judge import decode_judged, judge
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
    with pytest.raises(DataError, match="picture 7 is a web page"):
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
    [("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")]
    + [("JPEG", "RGB", how) for how in ({"progressive": True}, {"optimize": True}, {"quality": 98})]
    + [("JPEG", "RGB", how) for how in ({"restart_marker_blocks": 2}, {"subsampling": 0})]
    + [("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("WEBP", mode, {}) for mode in ("RGB", "RGBA")]
    + [("TIFF", mode, {}) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "I", "F")]
    + [("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate")]
    + [("BMP", "RGB", {}), ("GIF", "P", {})]
)
DAMAGES = {
    "none": lambda data, at, noise: data,
    "cut": lambda data, at, noise: data[:at],
    "cut by one": lambda data, at, noise: data[:-1],
    "padded": lambda data, at, noise: data[:-2] + b"0123456789" + data[-2:],
    "padded with noise": lambda data, at, noise: data[:-2] + noise + data[-2:],
    "appended": lambda data, at, noise: data + b"0123456789",
    "byte changed": lambda data, at, noise: data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :],
    "bytes left out": lambda data, at, noise: data[:at] + data[at + 3 :],
    "noise in it": lambda data, at, noise: data[:at] + noise + data[at + len(noise) :],
    "zeroed tail": lambda data, at, noise: data[:at] + bytes(max(0, len(data) - at - 2)) + data[-2:],
}


@settings(max_examples=300, deadline=None)
@given(
    KINDS,
    st.sampled_from(sorted(DAMAGES)),
    st.floats(0.01, 0.99),
    st.binary(min_size=1, max_size=40),
    st.booleans(),
)
def test_what_conversion_accepts_training_reads(kind, damage, where, noise, thorough):
    """Whatever is in it; an image that is cut is found even where conversion does not look at all data."""
    format, mode, how = kind
    whole = _deep(format, mode) if mode in ("I", "I;16", "F") else encoded(format, mode, **how)
    data = DAMAGES[damage](whole, min(int(where * len(whole)), len(whole) - 1), noise)
    image = Annotated(1, "a", width=30, height=20, boxes=0, crowds=0, annotation=b"{}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(data)
        accepted = _try(lambda: check_image(Path(folder), image, Checks(max_pixels=10_000, decode=thorough)))
    read = _try(
        lambda: decode_judged(data, name="x", max_pixels=10_000, expected_hw=(20, 30), source="it says")
    )
    if accepted is not None and (thorough or damage in ("none", "cut", "cut by one", "padded", "appended")):
        assert read is not None
        assert read.shape == (20, 30, 3)
    if read is not None:
        assert accepted is not None  # nothing is refused that training would read
    if damage == "none" and mode not in ("I", "F"):
        assert read is not None


def _try(read):
    try:
        return read()
    except DataError:
        return None


def _photo(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 9, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC)


def _jpeg(seed: int, **how) -> bytes:
    file = io.BytesIO()
    _photo(seed).save(file, "JPEG", **how)
    return file.getvalue()


HOW = [{}, {"optimize": True}, {"quality": 95}, {"restart_marker_blocks": 4}, {"subsampling": 0}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("extra", [b"\0" * 256, b"ab", b"0123456789" * 9, bytes(range(1, 200))], ids=len)
def test_extraneous_bytes_change_no_pixel_of_any_jpeg(how, extra):
    for seed in range(6):
        data = _jpeg(seed, **how)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode(data[:-2] + extra + data[-2:], name="x"), expected)
        check_pixels(data[:-2] + extra + data[-2:], name="x")


def test_extraneous_bytes_of_a_progressive_jpeg():
    for seed in range(6):
        data = _jpeg(seed, progressive=True)
        padded = data[:-2] + b"0123456789" * 9 + data[-2:]
        np.testing.assert_array_equal(decode(padded, name="x"), decode(data, name="x"))


def _noise(seed: int, **how) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", **how)
    return file.getvalue()


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_zeroed_tail_is_found_where_libjpeg_only_warns_of_extraneous_bytes(how):
    """Its data ends with zeros; an encoder's ends with ones."""
    warned = 0
    for seed in range(8):
        data = _noise(seed, **how)
        body = data.find(b"\xff\xda") + 20
        for share in (0.3, 0.6, 0.9):
            at = int(body + (len(data) - body) * share)
            damaged = data[:at] + bytes(len(data) - 2 - at) + data[-2:]
            with pytest.raises(ValueError, match="Corrupt") as said:
                simplejpeg.decode_jpeg(damaged)
            warned += "extraneous" in str(said.value)
            for judged in (decode, check_pixels):
                with pytest.raises(DataError, match="is no readable jpg image"):
                    judged(damaged, name="x")
    assert warned


def test_the_limit_of_pixels_is_the_only_one(monkeypatch):
    """Pillow refuses more than 178,956,970 pixels by itself, unless it is told not to."""
    file = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(file, "PNG")
    data = file.getvalue()
    assert judge(data, name="x", max_pixels=200_000_000).size_hw == (14_000, 14_000)
    with pytest.raises(DataError, match=r"x has 14000x14000 pixels, more than --data\.max-pixels 190000000"):
        judge(data, name="x", max_pixels=190_000_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="exceeds limit"):
        judge(data, name="x", max_pixels=200_000_000)


def _deep(format, mode):
    file = io.BytesIO()
    dtype = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
    Image.fromarray(np.arange(600).reshape(20, 30).astype(dtype)).save(file, format)
    return file.getvalue()
