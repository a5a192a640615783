"""Pictures as people have them, drawn here, and what a person sees in each.

Every reader is tested with this one set: training, evaluation, SavedModels, the app, the pages.
"""

import dataclasses
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

WIDTH, HEIGHT = 48, 32
ORIENTATION = 0x0112
_UNDO = {  # how a picture is stored that a reader turns upright by each orientation of EXIF
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file's content and what is seen in it.

    Attributes:
        content: Of the file.
        seen: uint8 [h, w, 3], as a person sees it on white paper; None: every reader refuses it.
        rounding: Largest difference of a pixel that decoders may have.
        suffix: Of the file's name.
    """

    content: bytes
    seen: np.ndarray | None
    rounding: int
    suffix: str


def scene(width=WIDTH, height=HEIGHT):
    """Return a smooth picture, which JPEG and resizing change little; no two corners are alike."""
    y, x = np.mgrid[:height, :width]
    y, x = y / max(height - 1, 1), x / max(width - 1, 1)
    channels = (230 - 200 * x, 30 + 190 * y, 60 + 130 * x * (1 - y))
    return Image.fromarray(np.uint8(np.round(np.stack(channels, axis=-1))))


def rgb(image):
    return np.asarray(image.convert("RGB"))


def encoded(image, kind, **options):
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def _turned(orientation, kind, **options):
    """Return the scene as a phone stores it that was held another way."""
    stored = scene().transpose(_UNDO[orientation]) if orientation > 1 else scene()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "a phone"  # so that the orientation is not the only entry
    content = encoded(stored, kind, exif=exif.tobytes(), **options)
    with Image.open(io.BytesIO(content)) as image:  # Pillow is of the same opinion
        assert ImageOps.exif_transpose(image).size == (WIDTH, HEIGHT)
    return content


_SIX = b"MM\0\x2a\0\0\0\x08" + struct.pack(">HHHIHHI", 1, ORIENTATION, 3, 1, 6, 0, 0)  # as EXIF
_XMP = b'<rdf:RDF xmlns:tiff="x"><rdf:Description tiff:Orientation="6"/></rdf:RDF>'


def _app1(content, marked):
    """Return a JPEG with a block of EXIF or of XMP."""
    return content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(marked)) + marked + content[2:]


def _png_with(name, chunk):
    """Return the scene as a PNG with a chunk before its pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(scene()))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return png_of(head, zlib.compress(rows), (name, chunk))


def _not_turned(jpeg):
    """Return Pictures that only some programs would turn: training, as browsers, does not."""
    seen, raw = rgb(scene()), _SIX.hex().encode()
    raw_profile = b"Raw profile type exif\0\nexif\n%8d\n" % len(_SIX) + raw
    return {
        "jpeg turned by xmp alone": (
            *(_app1(jpeg, b"http://ns.adobe.com/xap/1.0/\0" + _XMP), seen, 6, "jpg"),
        ),
        "png turned by xmp alone": (
            *(_png_with(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP), seen, 0, "png"),
        ),
        "png turned by a text": (_png_with(b"tEXt", raw_profile), seen, 0, "png"),
        "jpeg of damaged exif": (_app1(jpeg, b"Exif\0\0" + b"damaged!" * 3), seen, 6, "jpg"),
        "png of damaged exif": (_png_with(b"eXIf", b"damaged!" * 3), seen, 0, "png"),
        "png of short exif": (_png_with(b"eXIf", _SIX[:5]), seen, 0, "png"),
    }


def translucent():
    """Return the scene with all degrees of transparency, and how it looks on white."""
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    image = np.dstack([np.asarray(scene()), alpha])
    share = alpha[:, :, None] / 255
    return Image.fromarray(image), np.uint8(np.round(image[:, :, :3] * share + 255 * (1 - share)))


def _bmp_of(image):
    """Return a BMP with a header that says which bits are transparency (Pillow writes none)."""
    rows = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(rows), 0, 0, 0, 0)
    head += masks + bytes(108 - len(head) - len(masks))
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 122) + head + rows


def table():
    """Return a picture of a few colours, the first of which may be transparent, and without it."""
    image = scene().quantize(8)
    image.putpalette(image.getpalette()[: 3 * 8])
    indices = np.asarray(image)
    seen = rgb(image).copy()
    seen[indices == 0] = 255
    return image, seen


def _sixteen(channels):
    """Return a PNG of 16 bits a channel (Pillow writes grey ones only), and what is seen in it."""
    high = np.asarray(scene().convert("L" if channels == 1 else "RGB")).reshape(HEIGHT, -1)
    rows = (high.astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 0 if channels == 1 else 2, 0, 0, 0)
    seen = high.reshape(HEIGHT, WIDTH, channels)
    return png_of(head, zlib.compress(lines)), np.repeat(seen, 3 // channels, 2)


def png_of(head, rows, *more):
    """Return a PNG of its header and its compressed rows."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    chunks = [(b"IHDR", head), *more, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def _moving(kind, **options):
    """Return the scene, then its negative, as a picture that moves."""
    other = ImageOps.invert(scene())
    return encoded(scene(), kind, save_all=True, append_images=[other], duration=99, **options)


def _gif_in_a_corner():
    """Return a GIF whose first frame is smaller than its canvas, and what is seen of it."""
    image, _ = table()
    content = bytearray(encoded(image, "GIF", transparency=0))
    content[6:10] = struct.pack("<HH", WIDTH + 6, HEIGHT + 4)
    at = content.index(b"\x2c\0\0\0\0")
    content[at + 1 : at + 5] = struct.pack("<HH", 5, 3)
    seen = np.full((HEIGHT + 4, WIDTH + 6, 3), 255, np.uint8)
    seen[3 : 3 + HEIGHT, 5 : 5 + WIDTH] = table()[1]
    return bytes(content), seen


def _huge():
    """Return Pictures that say they are too large, and hold next to nothing."""
    jpeg, gif, bmp = (bytearray(encoded(scene(8, 8), kind)) for kind in ("JPEG", "GIF", "BMP"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    png = png_of(struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0), zlib.compress(bytes(10)))
    contents = {"huge": (png, "png"), "huge jpeg": (jpeg, "jpg")}
    contents |= {"huge gif": (gif, "gif"), "huge bmp": (bmp, "bmp")}
    return {name: (bytes(content), None, 0, end) for name, (content, end) in contents.items()}


def draw():
    """Return all Pictures by name."""
    plain, (glass, glass_seen), (few, few_seen) = scene(), translucent(), table()
    grey = rgb(plain.convert("L"))
    jpeg = {"quality": 95, "subsampling": 0}
    quarter = np.asarray(plain.transpose(Image.Transpose.ROTATE_270))
    found = {
        f"jpeg turned {i}": (_turned(i, "JPEG", **jpeg), rgb(plain), 6, "jpg") for i in range(1, 9)
    }
    found |= {
        "jpeg of big endian exif": (
            *(_app1(encoded(plain, "JPEG", **jpeg), b"Exif\0\0" + _SIX), quarter, 6, "jpg"),
        ),
        **_not_turned(encoded(plain, "JPEG", **jpeg)),
        "png turned": (_turned(6, "PNG"), rgb(plain), 0, "png"),
        "webp turned": (_turned(8, "WEBP", lossless=True), rgb(plain), 0, "webp"),
        "progressive jpeg": (
            encoded(plain, "JPEG", progressive=True, **jpeg),
            rgb(plain),
            6,
            "jpg",
        ),
        "cmyk jpeg": (encoded(plain.convert("CMYK"), "JPEG", quality=98), rgb(plain), 8, "jpg"),
        "grey jpeg": (encoded(plain.convert("L"), "JPEG", quality=98), grey, 6, "jpg"),
        "png called jpeg": (encoded(plain, "PNG"), rgb(plain), 0, "jpg"),
        "jpeg called png": (encoded(plain, "JPEG", **jpeg), rgb(plain), 6, "png"),
        "16-bit grey": (*_sixteen(1), 1, "png"),
        "16-bit rgb": (*_sixteen(3), 1, "png"),
        "transparent png": (encoded(glass, "PNG"), glass_seen, 1, "png"),
        "transparent grey": (
            *(encoded(glass.convert("LA"), "PNG"), _on_white(glass.convert("LA")), 1, "png"),
        ),
        "transparent table": (encoded(few, "PNG", transparency=0), few_seen, 0, "png"),
        "transparent bmp": (_bmp_of(glass), glass_seen, 1, "bmp"),
        "transparent webp": (
            encoded(glass, "WEBP", lossless=True, exact=True),
            glass_seen,
            1,
            "webp",
        ),
        "transparent gif": (encoded(few, "GIF", transparency=0), few_seen, 0, "gif"),
        "bmp of four bytes": (encoded(glass, "BMP"), rgb(glass), 0, "bmp"),  # the last says nothing
        "bmp": (encoded(plain, "BMP"), rgb(plain), 0, "bmp"),
        "bmp of a table": (encoded(few, "BMP"), rgb(few), 0, "bmp"),
        "moving gif": (_moving("GIF"), rgb(plain.quantize(256)), 24, "gif"),
        "gif in a corner": (*_gif_in_a_corner(), 0, "gif"),
        "moving webp": (_moving("WEBP", lossless=True), rgb(plain), 1, "webp"),
        "moving lossy webp": (_moving("WEBP", quality=95), rgb(plain), 12, "webp"),
        "1 x n": (encoded(scene(1, 40), "PNG"), rgb(scene(1, 40)), 0, "png"),
        "n x 1": (encoded(scene(40, 1), "PNG"), rgb(scene(40, 1)), 0, "png"),
        **_huge(),
    }
    return {name: Picture(*parts) for name, parts in found.items()}


def _on_white(image):
    """Return what Pillow makes of a transparent picture on white."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return rgb(white)


PICTURES = draw()
READABLE = {name: picture for name, picture in PICTURES.items() if picture.seen is not None}
REFUSED = {name: picture for name, picture in PICTURES.items() if picture.seen is None}
