"""The reference app and the page: the same answers as evaluation, and mistakes in one line."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.mobile import classify
from tests.pictures import PICTURES, READABLE, REFUSED, png_of
from xkd_keras import peers
from xkd_keras.data import preparation
from xkd_keras.ship import lite, metadata

LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def content():
    model = peers.build("tests.small_peers:plain", (20, 20, 3), 5, seed=2)
    with lite.converters(model) as convert:
        return metadata.pack(convert("float32", None), "small", "A test.", LABELS)


@pytest.fixture
def model(content, tmp_path):
    (tmp_path / "model.tflite").write_bytes(content)
    return tmp_path / "model.tflite"


def smooth(width, height):
    """Return an image that does not depend on the fine points of resampling."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / width * 5 + i) * np.cos(y / height * 4 - i) for i in range(3)]
    return np.uint8(127 + 120 * np.stack(waves, axis=-1))


@pytest.mark.parametrize("size", [(20, 20), (50, 31), (33, 90), (7, 9)])
@pytest.mark.parametrize("crop_ratio", [1.0, 0.8])
@pytest.mark.parametrize("taken", [(20, 20), (20, 32), (32, 18)])
def test_an_app_prepares_an_image_as_evaluation_does(size, crop_ratio, taken):
    image = smooth(*size)
    expected = preparation.evaluation(tf.constant(image), taken, crop_ratio).numpy()
    given = classify.prepare(Image.fromarray(image), taken, crop_ratio)
    assert given.shape == (1, *taken, 3)
    assert np.abs(given[0] - expected).max() <= 3
    assert np.abs(given[0] - expected).mean() < 0.5


@pytest.mark.parametrize("name", READABLE)
def test_an_app_sees_what_a_person_sees(name):
    picture = PICTURES[name]
    seen = preparation.evaluation(tf.constant(picture.seen), 32, 1.0).numpy()
    with Image.open(io.BytesIO(picture.content)) as image:
        found = classify.prepare(image, (32, 32))[0]
    # Pillow rounds between the two directions of resizing as well.
    assert np.abs(found - seen).max() <= picture.rounding + 2


@pytest.mark.parametrize("name", REFUSED)
def test_an_app_says_why_it_does_not_read_a_picture(name, model, tmp_path, capsys):
    (tmp_path / "it.png").write_bytes(PICTURES[name].content)
    assert classify.main([str(model), str(tmp_path / "it.png")]) == 1
    assert "the image has 60000 x 60000 pixels; valid: sides up to" in capsys.readouterr().err


@pytest.mark.parametrize("way", range(1, 9))
def test_an_app_turns_a_tiff_once(tmp_path, way):
    stored = Image.fromarray(np.arange(6 * 4 * 3, dtype="uint8").reshape(6, 4, 3))
    exif = Image.Exif()
    exif[classify.ORIENTATION] = way
    stored.save(tmp_path / "a.tif", exif=exif)
    upright = stored.transpose(classify.UPRIGHT[way]) if way > 1 else stored
    seen = classify.as_seen(Image.open(tmp_path / "a.tif"))
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(upright))


def test_an_app_takes_every_format_of_a_folder_and_no_litter(model, tmp_path, capsys):
    names = ["a.jfif", "b.JPEG", "c.png", "d.webp", "e.gif", "f.bmp", "g.tif", "h.tiff", "i.jpe"]
    for name in names:
        kind = {"j": "JPEG", "p": "PNG", "w": "WEBP", "g": "GIF", "b": "BMP", "t": "TIFF"}
        Image.fromarray(smooth(20, 20)).save(tmp_path / name, kind[name[2].lower()])
    (tmp_path / "__MACOSX").mkdir()
    for name in ("__MACOSX/x.png", "._a.jpg"):
        (tmp_path / name).write_bytes(b"\0")
    assert classify.main([str(model), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_an_app_resizes_no_more_of_a_strip_than_its_centre(size):
    image = np.zeros((*size, 3), np.uint8)
    image[tuple(slice(max(0, n // 2 - 1), n // 2 + 1) for n in size)] = 200
    assert (classify.prepare(Image.fromarray(image), (224, 224), 0.875) == 200).all()


@pytest.mark.parametrize("size", [(100_000, 1), (20_000, 20_000)])
def test_an_app_tells_an_image_that_is_too_large(model, tmp_path, capsys, size):
    rows = io.BytesIO()
    Image.fromarray(smooth(20, 20)).save(rows, "BMP")
    content = bytearray(rows.getvalue())
    content[18:26] = struct.pack("<ii", *size)
    (tmp_path / "large.bmp").write_bytes(content)
    assert classify.main([str(model), str(tmp_path / "large.bmp")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the image has {size[0]} x {size[1]} pixels; valid: sides up to 65500" in line


def test_an_app_prints_what_the_file_answers(model, content, tmp_path, capsys):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("one.png", "sub/two.bmp"):
        Image.fromarray(smooth(20, 20)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    assert classify.main([str(model), str(folder), "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    probabilities = lite.Lite(content)([smooth(20, 20)])[0]
    best = np.argsort(-probabilities)[:2]
    named = "  ".join(f"{LABELS[i]} {100 * probabilities[i]:.1f}%" for i in best)
    assert [line.split("  ")[0] for line in lines] == [
        str(folder / "one.png"),
        str(folder / "sub" / "two.bmp"),
    ]
    assert all(named in line for line in lines)


@pytest.mark.parametrize(("threshold", "said"), [(0.99, True), (0.01, False), (0.0, False)])
def test_an_app_says_what_may_be_none_of_the_labels(content, tmp_path, capsys, threshold, said):
    model, image = tmp_path / "wary.tflite", tmp_path / "one.png"
    model.write_bytes(metadata.pack(content, "small", "A test.", LABELS, threshold))
    Image.fromarray(smooth(20, 20)).save(image)
    assert classify.main([str(model), str(image)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{image}  none of these?  ") == said


def test_an_app_takes_an_answer_that_equals_the_threshold(content, tmp_path, capsys, monkeypatch):
    model, image = tmp_path / "wary.tflite", tmp_path / "one.png"
    model.write_bytes(metadata.pack(content, "small", "A test.", LABELS, 255 / 256))
    Image.fromarray(smooth(20, 20)).save(image)
    answer = np.array([255 / 256, 1 / 256, 0, 0, 0], np.float32)  # as an int8 file gives them
    monkeypatch.setattr(classify, "classify", lambda *_: (answer, 1.0))
    assert classify.main([str(model), str(image)]) == 0
    assert "none of these?" not in capsys.readouterr().out


def test_an_app_crops_as_the_file_says_unless_an_option_says_otherwise(content, tmp_path, capsys):
    model, image = tmp_path / "cropped.tflite", tmp_path / "one.png"
    model.write_bytes(metadata.pack(content, "small", "A test.", LABELS, crop_ratio=0.6))
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[5:35, 5:35] = [40, 90, 10]  # all that is left of it, as 20 / 0.6 = 33: 7.3 to 31.5
    Image.fromarray(pixels).save(image)
    whole = classify.prepare(Image.fromarray(pixels), (20, 20))[0]
    answers = lite.Lite(content)([pixels[10:30, 10:30], whole])
    assert answers[0].max() != pytest.approx(answers[1].max(), abs=1e-3)
    for options, expected in zip(([], ["--crop_ratio=1"]), answers, strict=True):
        assert classify.main([str(model), str(image), "--top=1", *options]) == 0
        best = f"{LABELS[expected.argmax()]} {100 * expected.max():.1f}%"
        assert best in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing.tflite", "there is no such file"),
        ("text.tflite", "not a .tflite file with labels"),
        ("archive.tflite", "not a .tflite file with labels"),
    ],
)
def test_an_app_tells_what_is_no_model(tmp_path, capsys, wrong, message):
    (tmp_path / "text.tflite").write_text("text")
    with zipfile.ZipFile(tmp_path / "archive.tflite", "w") as archive:
        archive.writestr("labels.txt", "a\nb\n")
    assert classify.main([str(tmp_path / wrong), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    [
        *("--top=0", "--top=-2", "--top=x", "--top=", "--threads=0", "--threads=two"),
        *(
            "--crop_ratio=0",
            "--crop_ratio=nan",
            "--crop_ratio=5",
            "--crop_ratio=",
            "--crop_ratio=a",
        ),
    ],
)
def test_options_that_make_no_sense_are_told(model, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as ended:
        classify.main([str(model), str(tmp_path), option])
    assert ended.value.code == 2
    name, value = option.split("=")
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{name}: received '{value}'; valid: " in error


def test_an_app_writes_what_a_port_has_to_make_of_an_image(model, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(smooth(50, 31)).save(tmp_path / "images" / name)
    one, target = tmp_path / "images" / "a.png", tmp_path / "seen.png"
    assert classify.main([str(model), str(one), f"--pixels={target}", "--threads=2"]) == 0
    with Image.open(target) as seen, Image.open(one) as image:
        np.testing.assert_array_equal(seen, classify.prepare(image, (20, 20))[0])
    assert classify.main([str(model), str(tmp_path / "images"), f"--pixels={target}"]) == 1
    assert "--pixels: received 2 images; valid: one." in capsys.readouterr().err
    assert classify.main([str(model), str(one), f"--pixels={tmp_path}/none/seen.png"]) == 1
    assert "/none/seen.png cannot be written" in capsys.readouterr().err


def test_a_name_that_is_not_utf_8_is_printed_all_the_same(model, tmp_path, capsys):
    path = tmp_path / "caf\udce9.png"
    Image.fromarray(smooth(20, 20)).save(path)
    assert classify.main([str(model), str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/caf\\udce9.png  ")


def test_one_broken_image_does_not_lose_the_others(model, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(smooth(20, 20)).save(folder / "b.png")
    target = io.BytesIO()
    Image.fromarray(smooth(20, 20)).save(target, "PNG")
    (folder / "a.png").write_bytes(target.getvalue()[:60])
    head, rows = struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 0), zlib.compress(bytes(20 * 21))
    no_name = (b"IDAT", rows[:5]), (b"\x82\0`~", b"")  # Pillow says that it is a SyntaxError
    (folder / "c.png").write_bytes(png_of(head, rows[5:], *no_name))
    assert classify.main([str(model), str(folder)]) == 1
    captured = capsys.readouterr()
    for name in ("a.png", "c.png"):
        assert f"{name}: cannot be read as an image." in captured.err
    assert len(captured.err.splitlines()) == 2
    assert "b.png" in captured.out


def test_a_reader_that_goes_ends_an_app_without_a_word(model, tmp_path):
    Image.fromarray(smooth(20, 20)).save(tmp_path / "x.png")
    words = ["-m", "serving.mobile.classify", str(model), str(tmp_path / "x.png")]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors
    assert "Broken" not in errors  # LiteRT has words of its own


def test_an_app_needs_no_tensorflow(model, tmp_path):
    Image.fromarray(smooth(20, 20)).save(tmp_path / "x.png")
    code = (
        "import sys; from serving.mobile import classify;"
        f"classify.main([{str(model)!r}, {str(tmp_path / 'x.png')!r}]);"
        "assert not {'tensorflow', 'keras', 'xkd_keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
