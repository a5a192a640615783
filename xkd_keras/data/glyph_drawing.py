"""Drawing the `glyphs` data set: 100 characters in matplotlib's fonts, distorted, on clutter.

Every image is a pure function of (split, index). It is computed in integers wherever Pillow does
so, lest the last bit of a float's rounding differ from one machine to the next.
"""

import functools
import hashlib
import pathlib

import matplotlib
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

IMAGE_SIZE = 32
# Characters with look-alikes, but none that is another one's twin in any of the faces: no Α or А
# beside A, no и and п beside u and n (in italics they are the same), no I beside l.
CLASSES = tuple(
    "0123456789ABDEFGHKLMNOQRSTUYZabdefghijklmnopqrstuvwyz"
    "βγδζηθλμνξπρσυφψωΓΔΘΛΞΣΨΩбгдфзйлнцшъьэюяИß&@$?§"
)
# The faces of one split are seen in no other one. All families are in all of them.
FACES = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSerif",
        "DejaVuSerif-BoldItalic",
        "STIXGeneral",
        "STIXGeneralBolIta",
    ),
    "validation": (
        "DejaVuSans-Oblique",
        "DejaVuSansMono-BoldOblique",
        "DejaVuSerif-Bold",
        "STIXGeneralBol",
    ),
    "test": (
        "DejaVuSans-Bold",
        "DejaVuSansMono",
        "DejaVuSerif-Italic",
        "STIXGeneralItalic",
    ),
}
COUNTS = {"train": 3000, "validation": 1000, "test": 2000}

_FINE = 4  # drawn so many times larger, then averaged
_CANVAS = IMAGE_SIZE * _FINE
_CAPITAL = 18 * _FINE  # height of H in every face: o stays smaller than O
_UNIT = 1024  # of the fixed-point numbers in affine maps
# Bright characters on dark ground: with both polarities AlexNet learned nothing in 15 epochs.
_DARK = 120  # brightest level of a background's colour
_CONTRAST = 80  # least difference in luminance between a character and its background


class _Dice:
    """Integers of one example.

    NumPy keeps the raw words of a bit generator from version to version, but not what its
    distributions make of them.
    """

    def __init__(self, split: str, index: int):
        self._bits = np.random.Philox(key=np.array([tuple(FACES).index(split), index], np.uint64))

    def roll(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def colour(self, brightest: int = 255) -> tuple[int, int, int]:
        """Red, green and blue, each from 0 to the brightest."""
        return (self.roll(0, brightest), self.roll(0, brightest), self.roll(0, brightest))

    def bell(self, count: int) -> np.ndarray:
        """int32 [count] about normal, of mean 0 and standard deviation 148."""
        words = self._bits.random_raw((count + 1) // 2)
        return words.astype("<u8").view(np.uint8).reshape(-1, 4)[:count].sum(1, np.int32) - 510


def draw(split: str, index: int) -> tuple[np.ndarray, int]:
    """Draw one example.

    Args:
        split: A key of `FACES`.
        index: From 0 to `COUNTS[split]` - 1.

    Returns:
        The image, uint8 [32, 32, 3], and its label, an index of `CLASSES`.
    """
    label, faces = index % len(CLASSES), FACES[split]
    face = faces[index // len(CLASSES) % len(faces)]
    dice = _Dice(split, index)
    ground = dice.colour(_DARK)
    picture = _background(dice, ground, faces)
    ink = _shaded(dice, _contrasting(dice, ground), 25)
    picture.paste(ink, mask=_character(dice, CLASSES[label], face))
    picture = picture.reduce(_FINE)
    picture = picture.filter(ImageFilter.GaussianBlur(dice.roll(0, 3) / 4))
    return _noisy(dice, picture), label


def shape(character: str, face: str) -> Image.Image:
    """Return the undistorted character as a grey mask of 128x128 pixels."""
    image = Image.new("L", (_CANVAS, _CANVAS))
    baseline = (_CANVAS + _CAPITAL) // 2
    place = (_CANVAS // 2, baseline)
    ImageDraw.Draw(image).text(place, character, fill=255, font=_font(face), anchor="ms")
    return image


def font_path(face: str) -> pathlib.Path:
    """Return the file of a face, which ships with matplotlib."""
    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@functools.cache
def identity() -> str:
    """What the pixels depend on: the versions of Pillow and FreeType, and the fonts' content."""
    fonts = hashlib.sha256()
    for face in sum(FACES.values(), ()):
        fonts.update(hashlib.sha256(font_path(face).read_bytes()).digest())
    freetype = features.version("freetype2")
    return f"pillow-{PIL.__version__}_freetype-{freetype}_fonts-{fonts.hexdigest()[:8]}"


@functools.cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    def sized(size: int) -> ImageFont.FreeTypeFont:
        # Basic layout: Raqm, where it is installed, would be one more version to depend on.
        basic, path = ImageFont.Layout.BASIC, str(font_path(face))  # Pillow 10.0 takes no Path
        return ImageFont.truetype(path, size, layout_engine=basic)

    capital = -sized(1000).getbbox("H", anchor="ls")[1]
    return sized(round(1000 * _CAPITAL / capital))


_shape = functools.lru_cache(maxsize=len(CLASSES) * 8)(shape)  # all of the largest split


def _character(dice: _Dice, character: str, face: str) -> Image.Image:
    mask, thicker = _shape(character, face), dice.roll(0, 2)
    if thicker:
        mask = mask.filter(ImageFilter.MaxFilter(1 + 2 * thicker))
    shift = 2 * _FINE
    place = (dice.roll(-shift, shift), dice.roll(-shift, shift))
    return _mapped(dice, mask, zoom=dice.roll(920, 1120), place=place, turn=220)


def _mapped(dice: _Dice, mask: Image.Image, zoom: int, place, turn: int) -> Image.Image:
    """Turn, shear and stretch a mask about its middle, which then comes to lie off by `place`."""
    turned, shear, wide = dice.roll(-turn, turn), dice.roll(-200, 200), dice.roll(-100, 100)
    across = (zoom + wide, turned + shear)
    down = (-turned, zoom - wide)
    middle = _CANVAS // 2
    rows = []
    for x, y in (across, down):
        start = middle * _UNIT - x * (middle + place[0]) - y * (middle + place[1])
        rows += [x / _UNIT, y / _UNIT, start / _UNIT]
    # Nearest, for Pillow does it in integers; the picture is averaged later.
    return mask.transform(mask.size, Image.Transform.AFFINE, rows, Image.Resampling.NEAREST)


def _background(dice: _Dice, ground, faces) -> Image.Image:
    picture = _shaded(dice, ground, 40)
    pen = ImageDraw.Draw(picture)
    for _ in range(dice.roll(0, 4)):
        ends = [dice.roll(0, _CANVAS) for _ in range(4)]
        pen.line(ends, fill=_near(dice, ground), width=dice.roll(2, 2 * _FINE))
    for _ in range(dice.roll(1, 3)):
        character = CLASSES[dice.roll(0, len(CLASSES) - 1)]
        mask = _shape(character, faces[dice.roll(0, len(faces) - 1)])
        # Towards an edge or a corner, so that what is in the middle is the character.
        far = [dice.roll(11, 18) * _FINE * (2 * dice.roll(0, 1) - 1), dice.roll(-16, 16) * _FINE]
        place = far if dice.roll(0, 1) else far[::-1]
        mask = _mapped(dice, mask, zoom=dice.roll(600, 1400), place=place, turn=500)
        picture.paste(_near(dice, ground), mask=mask)
    return picture


def _shaded(dice: _Dice, colour, spread: int) -> Image.Image:
    """A soft cloud of colours near one."""
    corners = [
        [min(255, max(0, level + dice.roll(-spread, spread))) for level in colour] for _ in range(9)
    ]
    small = Image.fromarray(np.array(corners, np.uint8).reshape(3, 3, 3))
    return small.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)


def _luminance(colour) -> int:
    return (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) // 1000


def _contrasting(dice: _Dice, ground) -> tuple[int, int, int]:
    while True:
        colour = dice.colour()
        if _luminance(colour) - _luminance(ground) >= _CONTRAST:
            return colour


def _near(dice: _Dice, ground) -> tuple[int, int, int]:
    """Some colour, but half of it the ground's."""
    return tuple((level + own) // 2 for level, own in zip(dice.colour(), ground, strict=True))


def _noisy(dice: _Dice, picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture, np.int32)
    noise = dice.bell(pixels.size).reshape(pixels.shape) * dice.roll(0, 36) // 256
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)
