import numpy as np
import pytest
from PIL import Image

from losslab.datasets.segmentation.folders import build
from losslab.datasets.segmentation.masks import fit_mask, read_mask
from losslab.errors import BadInput

COLOURS = np.array([[20, 20, 20], [250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """24 pictures of 30 × 48 to 60 × 48 pixels whose colours are their classes; 255 at a border."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(24):
        random = np.random.default_rng(i)
        mask = np.zeros((30 + 10 * (i % 4), 48), dtype=np.uint8)
        row, column = random.integers(0, 12, 2)
        mask[row : row + 14, column : column + 20] = 1 + (i % 3 if i else 2)
        Image.fromarray(COLOURS[mask]).save(tmp_path / "images" / f"p{i:02d}.png")
        mask[:, -3:] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{i:02d}.png")
    return tmp_path


def made(folder, **options):
    return build(0, path=folder, cache=folder / "cache", **{"size": 32, **options})


def test_pixels_and_classes_stay_together(folder):
    data = made(folder, size=[40, 36])
    train, validation = data.split(0)
    parts = [train, validation, data.test(0)]
    assert all(4 <= len(p) <= 6 for p in parts[1:])  # a fifth of each class's pictures
    assert all((data.class_counts(p) > 0).all() for p in parts)
    assert sorted(np.concatenate([p.ids for p in parts])) == list(range(24))
    for part in parts:
        assert (part.features.dtype, part.targets.dtype) == (np.float32, np.int64)
        for pixels, classes in zip(part.features, part.targets, strict=True):
            colour = (pixels.transpose(1, 2, 0) + 1) * 127.5
            nearest = np.abs(colour[:, :, None] - COLOURS.astype(float)).sum(-1).argmin(-1)
            counted = classes >= 0
            # Bilinear colours mix at borders alone.
            assert (nearest == classes)[counted].mean() > 0.93
            assert set(np.unique(classes)) <= {-1, 0, 1, 2, 3}


def test_a_mask_is_scaled_as_its_picture_pixel_by_pixel():
    random = np.random.default_rng(0)
    for height, width, scale, canvas in (
        (7, 11, 3.0, (24, 40)), (31, 20, 0.4, (16, 16)), (10, 10, 1.0, (10, 12)),
        (9, 13, 1.37, (20, 20)),
    ):  # fmt: skip
        mask = random.integers(0, 5, (height, width))
        stored = fit_mask(mask, scale, canvas)
        rows, columns = (min(int(np.ceil(s * scale - 1e-6)), c)
                         for s, c in zip((height, width), canvas, strict=True))  # fmt: skip
        for y in range(canvas[0]):
            for x in range(canvas[1]):
                if y >= rows or x >= columns:
                    assert stored[y, x] == -1
                else:
                    y0, x0 = int((y + 0.5) / scale), int((x + 0.5) / scale)
                    assert stored[y, x] == mask[min(y0, height - 1), min(x0, width - 1)]


def test_grey_levels_palettes_and_deep_masks_say_the_same(tmp_path):
    mask = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    for name, image in (
        ("grey", Image.fromarray(mask)),
        ("palette", palette),
        ("deep", Image.fromarray(mask.astype(np.uint16))),
    ):
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), mask)


def test_every_broken_file_is_told_by_name_at_once_or_left_out(folder):
    images, masks = folder / "images", folder / "masks"
    (masks / "p00.png").write_bytes(b"no picture")
    Image.fromarray(COLOURS[np.zeros((40, 48), int)]).save(masks / "p01.png")
    (masks / "p02.png").unlink()
    (images / "p03.png").unlink()
    Image.fromarray(np.full((30, 48), 9, np.uint8)).save(masks / "p04.png")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(masks / "p05.png")
    Image.fromarray(np.full((50, 48), 255, np.uint8)).save(masks / "p06.png")
    (images / "p07.png").write_bytes((images / "p07.png").read_bytes()[:90])
    names = ["wall", "a", "b", "c"]
    with pytest.raises(BadInput) as told:
        made(folder, classes=names)
    text = str(told.value)
    for name, what in (
        ("p00.png", "cannot identify"), ("p01.png", "RGB, not class indices"),
        ("p02.png", "there is no mask p02.png"), ("p03.png", "there is no image"),
        ("p04.png", "shows the value 9, but the classes are 0 to 3 and 255"),
        ("p05.png", "its mask has 10 x 10"), ("p06.png", "none of its pixels counts"),
        ("p07.png", ""),
    ):  # fmt: skip
        assert any(line.strip().startswith(f"{name}: ") and what in line
                   for line in text.splitlines()), (name, text)  # fmt: skip
    assert "on_error: skip" in text
    data = made(folder, classes=names, on_error="skip")
    assert data.class_names == names
    assert sorted(data.names) == [f"p{i:02d}" for i in range(8, 24)]
    assert sum(data.describe(0)["left_out"]["counts"].values()) == 8


def test_lists_give_the_splits_and_are_checked(folder):
    (folder / "test.txt").write_text("p01\np02\n")
    (folder / "val.txt").write_text("p03\n\np04\n")
    data = made(folder, test_list="test.txt", validation_list="val.txt")
    train, validation = data.split(5)
    assert [data.names[i] for i in data.test(0).ids] == ["p01", "p02"]
    assert [data.names[i] for i in validation.ids] == ["p03", "p04"]
    assert len(train) == 20
    (folder / "val.txt").write_text("p02\nnowhere\n")
    with pytest.raises(BadInput, match="p02 stands in another list too"):
        made(folder, test_list="test.txt", validation_list="val.txt")
    with pytest.raises(BadInput, match="test_list: there is no list"):
        made(folder, test_list="tset.txt")


def test_copies_of_a_picture_stay_on_one_side(folder):
    for i in range(1, 10):
        for name in ("images", "masks"):
            (folder / name / f"p{i:02d}.png").write_bytes((folder / name / "p00.png").read_bytes())
    data = made(folder)
    copies = {data.names.index(f"p{i:02d}") for i in range(10)}
    for seed in range(4):
        train, validation = data.split(seed)
        sides = [copies & set(p.ids.tolist()) for p in (train, validation, data.test(seed))]
        assert sorted(map(len, sides)) == [0, 0, 10]
    assert data.describe(0)["images_in_several_splits"] == 0


def test_the_options_are_checked_together(tmp_path):
    with pytest.raises(BadInput) as told:
        made(tmp_path, size=2, classes=["a", "a"], ignore=-3, on_error="no")
    assert [line.split(":")[0] for line in told.value.problems] == [
        "size", "ignore", "classes", "on_error", "images", "masks",
    ]  # fmt: skip
