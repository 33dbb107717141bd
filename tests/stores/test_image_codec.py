"""One decoder for all images: what it must read, what it must refuse, and that it never does anything in between."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from backdrop.errors import ImageError
from backdrop.stores.images.image_codec import JpegHeader, decode_grey, decode_rgb, encode_jpeg, jpeg_header, sha256

RNG = np.random.default_rng(0)
PICTURE_HWC = np.kron(RNG.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 48 x 64, flat patches


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def png_bytes(pixels: np.ndarray, bit_depth: int, colour_type: int) -> bytes:
    """A PNG written by hand: the formats Pillow itself cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("format_name", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})])
def test_lossless_formats_give_the_pixels_back(format_name: str, options: dict) -> None:
    decoded = decode_rgb(saved(Image.fromarray(PICTURE_HWC), format_name, **options))
    np.testing.assert_array_equal(decoded, PICTURE_HWC)
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_jpeg_is_close(options: dict) -> None:
    data = saved(Image.fromarray(PICTURE_HWC), "JPEG", quality=95, subsampling=0, **options)
    assert np.abs(decode_rgb(data).astype(int) - PICTURE_HWC).max() <= 16
    header = jpeg_header(data)
    assert header == JpegHeader(48, 64, not options.get("progressive", False), 3, 1)


def test_grey_jpeg_is_replicated() -> None:
    grey_HW = PICTURE_HWC[..., 0]
    data = saved(Image.fromarray(grey_HW), "JPEG", quality=95)
    decoded = decode_rgb(data)
    assert decoded.shape == (48, 64, 3)
    assert (decoded == decoded[..., :1]).all()
    np.testing.assert_array_equal(decode_grey(data), decoded[..., 0])
    assert jpeg_header(data).num_components == 1


def test_cmyk_jpeg_has_the_right_colours() -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    data = saved(red, "JPEG", quality=95)
    assert jpeg_header(data).num_components == 4
    np.testing.assert_allclose(decode_rgb(data).mean(axis=(0, 1)), (250, 10, 10), atol=6)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 25_700, 65_535]], np.uint16)
    data = png_bytes(values.astype(">u2"), 16, 0)
    expected = np.rint(values / 257).astype(np.uint8)  # 65,535 / 255
    np.testing.assert_array_equal(decode_grey(data), expected)
    np.testing.assert_array_equal(decode_rgb(data), np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_rgb() -> None:
    values = np.array([[[0, 25_700, 65_535], [257, 514, 771]]], np.uint16)
    decoded = decode_rgb(png_bytes(values.astype(">u2").reshape(1, -1, 3), 16, 2))
    np.testing.assert_array_equal(decoded, values // 257)


def test_alpha_is_dropped_and_colours_under_it_kept() -> None:
    alpha_HW = RNG.integers(0, 256, PICTURE_HWC.shape[:2], dtype=np.uint8)
    rgba = np.dstack([PICTURE_HWC, alpha_HW])
    np.testing.assert_array_equal(decode_rgb(saved(Image.fromarray(rgba), "PNG")), PICTURE_HWC)
    grey_alpha = Image.merge("LA", [Image.fromarray(PICTURE_HWC[..., 0]), Image.fromarray(alpha_HW)])
    np.testing.assert_array_equal(decode_grey(saved(grey_alpha, "PNG")), PICTURE_HWC[..., 0])


def test_palette_with_transparency_bytes_does_not_warn() -> None:
    image = Image.fromarray(PICTURE_HWC).quantize(16)
    data = saved(image, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(image.convert("RGB")))


def test_one_bit_mask() -> None:
    mask = PICTURE_HWC[..., 0] > 127
    np.testing.assert_array_equal(decode_grey(saved(Image.fromarray(mask), "PNG")), mask * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, format_name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(PICTURE_HWC), format_name, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(data), expected)
    assert expected.shape[:2] == ((48, 64) if orientation <= 4 else (64, 48))
    if format_name == "JPEG":
        assert jpeg_header(data).orientation == orientation
        assert (jpeg_header(data).height, jpeg_header(data).width) == (48, 64)


def test_senseless_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 42
    assert decode_rgb(saved(Image.fromarray(PICTURE_HWC), "JPEG", exif=exif)).shape == PICTURE_HWC.shape


@pytest.mark.parametrize("size", [(1, 1), (20_000, 30), (3, 5)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    for format_name in ("JPEG", "PNG"):
        assert decode_rgb(saved(Image.new("RGB", size, (10, 200, 30)), format_name)).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("left", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused(format_name: str, left: float) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format_name)
    with pytest.raises(ImageError):
        decode_rgb(data[: int(len(data) * left)])


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(options: dict) -> None:
    data = saved(Image.fromarray(PICTURE_HWC), "JPEG", **options)
    for missing in (1, 2, 20):
        with pytest.raises(ImageError, match="truncated"):
            decode_rgb(data[:-missing])


@pytest.mark.parametrize(
    "data", [b"", b"not an image at all\n", b"\xff\xd8", b"\xff\xd8\xff\xe0\0", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused_in_the_same_words_every_time(data: bytes) -> None:
    reasons = set()
    for _ in range(2):
        with pytest.raises(ImageError) as caught:
            decode_rgb(data)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()
    assert jpeg_header(data) is None


def test_huge_images_are_refused_before_they_are_decoded() -> None:
    data = png_bytes(np.zeros((1, 8), np.uint8), 8, 0)
    huge = bytearray(data)
    struct.pack_into(">II", huge, 16, 20_000, 20_000)
    struct.pack_into(">I", huge, 29, zlib.crc32(bytes(huge[12:29])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"limit|Mpx"):
            decode_rgb(bytes(huge))
        struct.pack_into(">II", huge, 16, 10_000, 10_000)  # Pillow would warn of this one
        struct.pack_into(">I", huge, 29, zlib.crc32(bytes(huge[12:29])))
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_rgb(bytes(huge))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_gives_pixels_or_an_image_error(data: st.DataObject) -> None:
    good = GOOD_FILES[data.draw(st.integers(0, len(GOOD_FILES) - 1))]
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    jpeg_header(bytes(damaged))
    try:
        assert decode_rgb(bytes(damaged)).dtype == np.uint8
    except ImageError as error:
        assert str(error)  # noqa: PT017


GOOD_FILES = [
    saved(Image.fromarray(PICTURE_HWC), "JPEG", exif=Image.Exif().tobytes()),
    saved(Image.fromarray(PICTURE_HWC), "JPEG", progressive=True),
    saved(Image.fromarray(PICTURE_HWC), "PNG"),
    saved(Image.fromarray(PICTURE_HWC).quantize(8), "PNG", transparency=3),
    saved(Image.fromarray(PICTURE_HWC), "WEBP"),
]


def test_encode_jpeg_is_baseline_420_and_refuses_impossible_sizes() -> None:
    data = encode_jpeg(PICTURE_HWC, 90)
    assert jpeg_header(data) == JpegHeader(48, 64, True, 3, 1)
    assert Image.open(io.BytesIO(data)).layer[0][1:3] == (2, 2)
    assert len(encode_jpeg(PICTURE_HWC, 30)) < len(data)
    with pytest.raises(ImageError, match="65500"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))


def test_sha256_is_the_standard_one() -> None:
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
