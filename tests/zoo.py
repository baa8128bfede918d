"""A zoo of picture files, tame, hostile and broken, each with what must become of it.

python zoo.py FOLDER      builds it there, and prints the table
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageOps, features

UNREADABLE = r"cannot be read \(.+\); replace it or leave it out$"
NO_PICTURE = r"cannot be read \(its content is no(ne of [A-Z, ]+| image)\); replace it or leave it out$"
NO_HEIC = r"cannot be read \(its content is HEIC\); run `pip install pillow-heif`, or leave it out$"
NO_RANGE = r"cannot be read \(its values are from -[\d.]+ to [-\d.]+, which is no range of grey\); save it with .+"
TOO_LARGE = r"cannot be read \(.*pixels.*\); (shrink|replace) it or leave it out$"
TOO_LONG = r"is \d+ x \d+ pixels, and one side is more than 32 times the other; crop it$"
MISSING = r"does not exist; check the path$"
FOLDER = r"is a folder, not an image; give the images in it$"
SPECIAL = r"is no regular file; save it as one$"
LABEL = ""
"""The verdict of a picture that gets a label."""

ORIENTATION = 0x0112
HEIF = importlib.util.find_spec("pillow_heif") is not None
AVIF = features.check("avif")


@dataclass(frozen=True)
class Case:
    """A file.

    Attributes:
        kind: what it is, for people.
        name: of the file.
        make: its content, or what makes it at a path.
        verdict: `LABEL`, or a pattern that its error matches.
        api: the verdict of the API, where that is another one.
        upright: it shows the very pixels of `photo`, turned by its EXIF.
    """

    kind: str
    name: bytes
    make: bytes | Callable[[bytes], None]
    verdict: str = LABEL
    api: str | None = None
    upright: bool = False


def photo() -> Image.Image:
    """A small photo of a cat, of other sides in length."""
    whole = Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png").convert("RGB")
    return Image.fromarray(np.asarray(whole.resize((90, 60))))  # without its metadata


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def build(folder: Path) -> dict[bytes, Case]:
    """Make all files in a folder; returns each path's case."""
    built: dict[bytes, Case] = {}
    for case in zoo():
        path = os.path.join(os.fsencode(folder), case.name)
        assert path not in built, case.name
        if callable(case.make):
            case.make(path)
        else:
            with open(path, "wb") as file:
                file.write(case.make)
        built[path] = case
    return built


def zoo() -> Iterator[Case]:
    """List all cases."""
    yield from _modes()
    yield from _animations()
    yield from _turned()
    yield from _odd_metadata()
    yield from _odd_sizes()
    yield from _cut_short()
    yield from _damaged()
    yield from _something_else()
    yield from _new_formats()
    yield from _no_files()
    yield from _odd_names()


def _modes() -> Iterator[Case]:
    rgb = photo()
    grey = np.asarray(rgb.convert("L"))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = (grey.astype(np.uint16) * 257).astype("<u2")
    cmyk = saved(rgb.convert("CMYK"), "JPEG", quality=90)
    yield Case("JPEG", b"plain.jpg", saved(rgb, "JPEG"))
    yield Case("progressive JPEG", b"progressive.jpg", saved(rgb, "JPEG", progressive=True))
    yield Case("greyscale JPEG", b"grey.jpg", saved(rgb.convert("L"), "JPEG"))
    yield Case("CMYK JPEG", b"cmyk.jpg", cmyk)
    yield Case("YCCK JPEG", b"ycck.jpg", _as_ycck(rgb))
    yield Case("PNG", b"plain.png", saved(rgb, "PNG"), upright=True)
    yield Case("PNG with alpha", b"alpha.png", saved(alpha, "PNG"))
    yield Case("grey and alpha PNG", b"la.png", saved(alpha.convert("LA"), "PNG"))
    yield Case("palette PNG", b"palette.png", saved(rgb.quantize(64), "PNG"))
    yield Case("palette PNG with transparency", b"palette-alpha.png", saved(rgb.quantize(64), "PNG", transparency=b"\0\x80"))
    yield Case("RGB PNG with a transparent colour", b"key.png", saved(rgb, "PNG", transparency=(1, 2, 3)))
    yield Case("1-bit PNG", b"bit.png", saved(rgb.convert("1"), "PNG"))
    yield Case("16-bit PNG", b"deep.png", saved(Image.fromarray(deep), "PNG"))
    yield Case("16-bit TIFF", b"deep.tif", saved(Image.fromarray(deep), "TIFF"))
    yield Case("1-bit TIFF", b"bit.tif", saved(rgb.convert("1"), "TIFF", compression="group4"))
    yield Case("float TIFF", b"float.tif", saved(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"))
    holes = np.where(grey > 200, np.nan, grey.astype(np.float32) / 255).astype(np.float32)
    holes[0, :2] = np.inf, -np.inf
    yield Case("float TIFF with NaN and infinities", b"nan.tif", saved(Image.fromarray(holes), "TIFF"))
    yield Case("float TIFF below 0", b"below.tif", saved(Image.fromarray(grey / np.float32(255) - 1), "TIFF"), NO_RANGE)
    yield Case(
        "32-bit TIFF with negative numbers", b"int.tif", saved(Image.fromarray(grey.astype(np.int32) - 99), "TIFF"), NO_RANGE
    )
    yield Case("LAB TIFF", b"lab.tif", saved(rgb.convert("LAB"), "TIFF"))
    yield Case("CMYK TIFF", b"cmyk.tif", saved(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw"))
    yield Case("GIF", b"plain.gif", saved(rgb, "GIF"))
    yield Case("WebP", b"plain.webp", saved(rgb, "WEBP"))
    yield Case("lossless WebP with alpha", b"alpha.webp", saved(alpha, "WEBP", lossless=True))
    yield Case("BMP", b"plain.bmp", saved(rgb, "BMP"), upright=True)


def _as_ycck(rgb: Image.Image) -> bytes:
    """Store the inverted inks' YCbCr beside a black of none, and say so in Adobe's marker."""
    y, cb, cr = ImageOps.invert(rgb).convert("YCbCr").split()
    # PIL stores inks inverted, and a decoder inverts what it makes of YCbCr.
    stored = Image.merge("CMYK", [ImageOps.invert(band) for band in (y, cb, cr)] + [Image.new("L", rgb.size, 0)])
    content = bytearray(saved(stored, "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def _animations() -> Iterator[Case]:
    frames = [photo(), *(Image.new("RGB", photo().size, colour) for colour in ("red", "blue"))]
    for kind, name in (
        ("GIF", b"animated.gif"),
        ("WEBP", b"animated.webp"),
        ("PNG", b"animated.png"),
        ("TIFF", b"pages.tif"),
    ):
        yield Case(f"animated {kind}", name, saved(frames[0], kind, save_all=True, append_images=frames[1:]))


def _turned() -> Iterator[Case]:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    for turn in range(1, 9):
        stored = photo().transpose(back[turn]) if turn in back else photo()
        exif[ORIENTATION] = turn
        yield Case(f"EXIF orientation {turn}", b"turn%d.png" % turn, saved(stored, "PNG", exif=exif), upright=True)
        yield Case(f"EXIF orientation {turn}", b"turn%d.jpg" % turn, saved(stored, "JPEG", exif=exif))
    sideways = photo().transpose(back[6])
    exif[ORIENTATION] = 6
    yield Case("WebP with EXIF", b"turn6.webp", saved(sideways, "WEBP", lossless=True, exif=exif), upright=True)
    yield Case("TIFF with an orientation", b"turn6.tif", saved(sideways, "TIFF", tiffinfo={ORIENTATION: 6}), upright=True)


def _odd_metadata() -> Iterator[Case]:
    rgb = photo()
    for number, exif in enumerate(
        (
            b"Exif\0\0junk",
            b"Exif\0\0II*\0\xff\xff\xff\x7f",  # a directory beyond the end
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0",  # 65535 entries, cut in the first
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",  # an orientation in letters
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",  # a fraction nowhere
        )
    ):
        yield Case("broken EXIF", b"exif%d.jpg" % number, saved(rgb, "JPEG", exif=exif))
        yield Case("broken EXIF", b"exif%d.png" % number, _with_chunk(saved(rgb, "PNG"), b"eXIf", exif[6:]), upright=True)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield Case("broken ICC profile", b"icc." + kind.lower().encode(), saved(rgb, kind, icc_profile=b"no profile" * 9))
    bomb = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    yield Case("PNG with text that unpacks to 80 MB", b"text.png", _with_chunk(saved(rgb, "PNG"), b"zTXt", bomb), UNREADABLE)


def _odd_sizes() -> Iterator[Case]:
    for size in ((20_000, 1), (1, 20_000)):
        name = b"%d-%d.png" % size
        yield Case("{} x {}".format(*size), name, saved(Image.new("RGB", size, "red"), "PNG"), api=TOO_LONG)
    yield Case("1 x 1", b"dot.png", saved(Image.new("RGB", (1, 1), "red"), "PNG"))
    yield Case("1 x 1", b"dot.gif", saved(Image.new("P", (1, 1)), "GIF"))
    for side in (10_000, 60_000, 2**31 - 1):
        yield Case(f"PNG that says {side} x {side}", b"bomb%d.png" % side, png(side, side), TOO_LARGE)
    gif = bytearray(saved(photo(), "GIF"))
    gif[6:10] = b"\xff" * 4
    yield Case("GIF that says 65535 x 65535", b"bomb.gif", bytes(gif), TOO_LARGE)
    jpeg = bytearray(saved(photo(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xdc" * 2
    yield Case("JPEG that says 65500 x 65500", b"bomb.jpg", bytes(jpeg), TOO_LARGE)
    bmp = bytearray(saved(photo(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield Case("BMP that says 2^30 x 2^30", b"bomb.bmp", bytes(bmp), TOO_LARGE)
    tiff = saved(Image.new("L", (7, 5)), "TIFF")
    wide = tiff.replace(struct.pack("<HHII", 256, 4, 1, 7), struct.pack("<HHII", 256, 4, 1, 2**31 - 1))
    wide = wide.replace(struct.pack("<HHII", 257, 4, 1, 5), struct.pack("<HHII", 257, 4, 1, 2**31 - 1))
    assert wide != tiff
    yield Case("TIFF that says 2^31 x 2^31", b"bomb.tif", wide, UNREADABLE)
    yield Case("PNG that says 0 x 0", b"nothing.png", png(0, 0), UNREADABLE)


def _cut_short() -> Iterator[Case]:
    rgb = photo()
    whole = {
        b"baseline.jpg": saved(rgb, "JPEG"),
        b"progressive.jpg": saved(rgb, "JPEG", progressive=True),
        b"true.png": saved(rgb, "PNG"),
        b"palette.gif": saved(rgb, "GIF"),
        b"lossy.webp": saved(rgb, "WEBP"),
        b"lossless.webp": saved(rgb, "WEBP", lossless=True),
        b"raw.tif": saved(rgb, "TIFF"),
        b"lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        b"raw.bmp": saved(rgb, "BMP"),
    }
    for name, content in whole.items():
        for share in (0.02, 0.35, 0.7):
            cut = content[: int(len(content) * share)]
            yield Case("cut short", b"cut%d-" % (100 * share) + name, cut, UNREADABLE)
    yield Case("JPEG without its end marker", b"endless.jpg", saved(rgb, "JPEG")[:-2], UNREADABLE)
    yield Case("cut within the first bytes", b"magic.jpg", b"\xff\xd8\xff", NO_PICTURE)


def _damaged() -> Iterator[Case]:
    content = bytearray(saved(photo(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    yield Case("PNG with a wrong byte", b"flipped.png", bytes(content), UNREADABLE)
    yield Case("empty file", b"empty.jpg", b"", NO_PICTURE)
    yield Case("zero bytes", b"zeros.jpg", bytes(5000), NO_PICTURE)
    yield Case("random bytes", b"random.jpg", np.random.default_rng(0).bytes(5000), NO_PICTURE)
    yield Case("JPEG whose body is random", b"noise.jpg", saved(photo(), "JPEG")[:200] + bytes(range(256)) * 9, UNREADABLE)
    yield Case("PNG without pixels", b"headonly.png", png(20, 20), UNREADABLE)


def _something_else() -> Iterator[Case]:
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.jpg", saved(photo(), "JPEG"))
    document = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    kinds = {"HTML": page, "SVG": drawing, "PDF": document, "zip": packed.getvalue(), "text": b"P6 is what I said\n"}
    for kind, content in kinds.items():
        yield Case(f"{kind} named .jpg", kind.lower().encode() + b".jpg", content, UNREADABLE)
    yield Case("PNG named .jpg", b"is-png.jpg", saved(photo(), "PNG"), upright=True)
    yield Case("JPEG named .png", b"is-jpeg.png", saved(photo(), "JPEG"))
    yield Case("WebP named .gif", b"is-webp.gif", saved(photo(), "WEBP"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    yield Case("PostScript named .jpg", b"eps.jpg", script, UNREADABLE)


def _new_formats() -> Iterator[Case]:
    box = b"\0\0\0\x18ftyp%s\0\0\0\0mif1%s"
    yield Case(
        "AVIF",
        b"new.avif",
        saved(photo(), "AVIF", quality=20) if AVIF else box % (b"avif", b"avif"),
        LABEL if AVIF else UNREADABLE,
    )
    yield Case("AVIF of a head alone", b"head.avif", box % (b"avif", b"avif"), UNREADABLE)
    yield Case(
        "HEIC of a head alone", b"head.heic", box % (b"heic", b"heic"), UNREADABLE if HEIF else NO_HEIC, api=NO_PICTURE
    )
    if HEIF:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]

        pillow_heif.register_heif_opener()
        yield Case("HEIC", b"new.heic", saved(photo(), "HEIF"), api=NO_PICTURE)


def _no_files() -> Iterator[Case]:
    yield Case("folder named .jpg", b"folder.jpg", os.mkdir, FOLDER)
    yield Case("symlink to itself", b"loop.jpg", lambda path: os.symlink(path, path), UNREADABLE)
    yield Case("dangling symlink", b"dangling.jpg", lambda path: os.symlink(b"gone", path), MISSING)
    yield Case("FIFO named .jpg", b"fifo.jpg", os.mkfifo, SPECIAL)
    yield Case("symlink to a device", b"device.jpg", lambda path: os.symlink(b"/dev/zero", path), SPECIAL)
    yield Case("symlink to a picture", b"link.jpg", lambda path: os.symlink(b"plain.jpg", path))
    if os.geteuid():  # the superuser may read everything
        yield Case("unreadable file", b"locked.jpg", _locked, UNREADABLE)


def _locked(path: bytes) -> None:
    with open(path, "wb"):
        os.chmod(path, 0)


def _odd_names() -> Iterator[Case]:
    content = saved(photo(), "JPEG", quality=70)
    odd = {
        "newline in the name": b"new\nline.jpg",
        "carriage return in the name": b"carriage\rreturn.jpg",
        "quotes in the name": b"'single' \"double\" `back`.jpg",
        "comma in the name": b"a,b;c\td.jpg",
        "right-to-left marks in the name": "\u202egpj.\u2067\u05d0.jpg".encode(),
        "invalid UTF-8 in the name": b"latin1-\xe9\xff.jpg",
        "250 bytes of name": b"n" * 246 + b".jpg",
        "glob signs in the name": b"[a-z]*?.jpg",
        "option's dashes in the name": b"--labels.jpg",
        "spreadsheet formula as a name": b"=1+1.jpg",
        "ANSI escape in the name": b"\x1b[31mred.jpg",
    }
    for kind, name in odd.items():
        yield Case(kind, name, content)
    yield Case("broken, and invalid UTF-8 in the name", b"broken-\xe9\n.jpg", b"x", r"(?s)" + NO_PICTURE)


def png(width: int, height: int) -> bytes:
    """A PNG of a head and next to no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(60))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """Put a chunk behind a PNG's head."""
    return content[:33] + _chunk(kind, data) + content[33:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    for path, case in build(Path(sys.argv[1])).items():
        print(f"{os.path.basename(path)!r:60} {case.kind:50} {case.verdict or 'label'}")
