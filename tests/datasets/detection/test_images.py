import multiprocessing

import numpy as np
import pytest
from PIL import Image

from losslab.datasets.detection import cache
from losslab.datasets.detection.cache import Wanted, stored
from losslab.datasets.detection.images import (
    PADDING,
    Resize,
    Unreadable,
    decode,
    fit,
    stored_size,
    upright_size,
)
from losslab.errors import BadInput


@pytest.mark.parametrize(("width", "height"), [(640, 480), (61, 47), (33, 90), (7, 5)])
@pytest.mark.parametrize("canvas", [(64, 64), (48, 80)])
def test_a_place_of_the_picture_comes_to_lie_where_the_scale_says(width, height, canvas):
    # A picture whose grey level is its own x (then y) shows where its pixels went.
    scale = Resize(canvas).scale(width, height)
    x = np.broadcast_to((np.arange(width) + 0.5) / width * 200, (height, width))
    y = np.broadcast_to((np.arange(height)[:, None] + 0.5) / height * 200, (height, width))
    image = fit(np.rint(np.stack([x, y, x], axis=2)).astype(np.uint8), scale, canvas)
    rows, columns = stored_size(width, height, scale)
    assert (image[:, rows:] == PADDING).all()
    assert (image[:, :, columns:] == PADDING).all()
    edge = int(max(scale, 1)) + 1  # there, an enlarged picture repeats its outermost pixel
    inner_x = np.arange(edge, columns - edge)
    inner_y = np.arange(edge, rows - edge)
    wanted_x = (inner_x + 0.5) / scale / width * 200
    wanted_y = (inner_y + 0.5) / scale / height * 200
    assert np.abs(image[0, rows // 2, inner_x] - wanted_x).max(initial=0) < 1.5
    assert np.abs(image[1, inner_y, columns // 2] - wanted_y).max(initial=0) < 1.5


def test_sides_give_scale_and_canvas():
    resize = Resize(None, 300, 500)
    assert resize.scale(640, 480) == 300 / 480
    assert resize.scale(480, 1200) == 500 / 1200
    sizes = np.array([stored_size(640, 480, 300 / 480), stored_size(480, 1200, 500 / 1200)])
    assert sizes.tolist() == [[300, 400], [500, 200]]
    assert resize.canvas_of(sizes) == (512, 416)


def save(folder, name, array, **options):
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def test_kinds_of_images(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    colour = np.stack([grey, grey // 2, 255 - grey], axis=2)
    assert (decode(save(tmp_path, "a.png", colour), 8, 6) == colour).all()
    for name, array in (("g.png", grey), ("deep.png", grey.astype(np.uint16) * 256)):
        assert (decode(save(tmp_path, name, array), 8, 6) == grey[..., None]).all()
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "t.png")
    assert (decode(tmp_path / "t.png", 8, 6) == colour).all()
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "c.tif")
    assert np.abs(decode(tmp_path / "c.tif", 8, 6).astype(int) - colour).max() <= 2


def test_a_cameras_note_to_turn_counts_where_the_annotations_mean_it(tmp_path):
    colour = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = save(tmp_path, "turned.png", colour, exif=exif)
    assert upright_size(file, (8, 6)) == (8, 6)
    assert (decode(file, 8, 6) == colour).all()
    assert upright_size(file, (6, 8)) == (6, 8)
    assert (decode(file, 6, 8) == np.rot90(colour, -1)).all()
    with pytest.raises(Unreadable, match="has 8 x 6 pixels, its annotations say 9 x 6"):
        upright_size(file, (9, 6))


def wanted(folder, count=5):
    random = np.random.default_rng(0)
    return [
        Wanted(save(folder, f"{i}.png", random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)))
        for i in range(count)
    ]


def test_the_cache_gives_what_decoding_gives(tmp_path, monkeypatch):
    files = wanted(tmp_path)
    resize = Resize((32, 32))
    first = stored(files, resize, tmp_path / "cache")
    for row, one in enumerate(files):
        picture = decode(one.file, 30, 20 + row)
        assert (first.images[row] == fit(picture, first.scales[row], (32, 32))).all()
    monkeypatch.setattr(cache, "decode", None)  # the second time nothing is decoded
    second = stored(files, resize, tmp_path / "cache")
    assert isinstance(second.images, np.memmap)
    assert (second.images == first.images).all()
    assert second.hashes == first.hashes
    second.images[:] = 0  # does not reach the file
    assert (stored(files, resize, tmp_path / "cache").images == first.images).all()


def test_another_content_or_size_is_another_entry(tmp_path):
    files = wanted(tmp_path, 2)
    folder = tmp_path / "cache"
    before = stored(files, Resize((32, 32)), folder).images.copy()
    stored(files, Resize((32, 48)), folder)
    save(tmp_path, "1.png", np.zeros((21, 30, 3), np.uint8))
    after = stored(files, Resize((32, 32)), folder).images
    assert len(list(folder.iterdir())) == 3
    assert (before[0] == after[0]).all()
    assert after[1, :, :10, :10].max() == 0


def make(files, folder):
    return int(stored(files, Resize((32, 32)), folder).images.sum())


def test_processes_that_make_the_same_entry_agree(tmp_path):
    files = wanted(tmp_path)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.starmap(make, [(files, tmp_path / "cache")] * 6)
    assert len(set(sums)) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and nothing half made is left


def test_an_interrupted_making_leaves_no_entry(tmp_path, monkeypatch):
    files = wanted(tmp_path)
    true_decode = cache.decode

    def interrupted(file, width, height):
        if file.name == "3.png":
            raise KeyboardInterrupt
        return true_decode(file, width, height)

    monkeypatch.setattr(cache, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored(files, Resize((32, 32)), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cache: .* cannot be written"):
        stored(wanted(tmp_path, 1), Resize((32, 32)), tmp_path / "file" / "cache")
