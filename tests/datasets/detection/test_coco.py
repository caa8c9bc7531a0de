import json
import shutil

import numpy as np
import pytest
from PIL import Image

from losslab.datasets.detection.coco import build
from losslab.datasets.detection.problems import remarks
from losslab.errors import BadInput


def change(folder, **changes):
    """Rewrite all.json by functions of its parts."""
    content = json.loads((folder / "all.json").read_text())
    for part, function in changes.items():
        function(content[part])
    (folder / "all.json").write_text(json.dumps(content))


def data(folder, study_seed=0, **options):
    return build(study_seed, images=str(folder), annotations=str(folder / "all.json"),
                 size=[40, 60], **options)  # fmt: skip


def everything(dataset):
    """Annotations and images of all splits by the name of the image."""
    found = {}
    for split in (*dataset.split(0), dataset.test(0)):
        for i, own in enumerate(split.ids):
            found[dataset.names[own]] = (*split.annotations.of(i), split.images[i])
    return found


def message(folder, **options):
    with pytest.raises(BadInput) as error:
        data(folder, **options)
    return str(error.value)


def test_what_is_read_is_what_pycocotools_reads(coco_folder, capsys):
    pycocotools = pytest.importorskip("pycocotools.coco")
    dataset = data(coco_folder)
    assert dataset.class_names == ["early", "late"]  # by id: 3, 17
    reference = pycocotools.COCO(str(coco_folder / "all.json"))
    found = everything(dataset)
    assert len(found) == 12
    labels = {3: 0, 17: 1}
    for image in reference.loadImgs(reference.getImgIds()):
        boxes, classes, crowd, pixels = found[image["file_name"]]
        entries = reference.loadAnns(reference.getAnnIds(image["id"]))
        wanted = [[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in entries)]
        assert boxes.tolist() == wanted
        assert classes.tolist() == [labels[e["category_id"]] for e in entries]
        assert crowd.tolist() == [bool(e["iscrowd"]) for e in entries]
        file = np.asarray(Image.open(coco_folder / image["file_name"]))
        assert (pixels == file.transpose(2, 0, 1)).all()
    test = dataset.test(0)
    assert test.annotations.areas.tolist() == [
        pytest.approx(float(np.prod(box[2:] - box[:2]) / 2)) for box in test.annotations.boxes
    ]


def test_boxes_are_scaled_and_sizes_told(coco_folder):
    dataset = build(0, images=str(coco_folder), annotations=str(coco_folder / "all.json"), size=96)
    split, _ = dataset.split(0)
    assert split.images.shape[1:] == (3, 96, 96)
    assert split.sizes.tolist() == [[64, 96]] * len(split)
    np.testing.assert_allclose(split.scales, 1.6)
    for box in split.annotations.boxes / 1.6:
        assert box.tolist() in (pytest.approx([1, 2, 21, 12]), pytest.approx([30, 5, 42.5, 35]))


def test_splits_hold_every_image_once_and_depend_on_their_seeds(coco_folder):
    dataset = data(coco_folder)
    train, validation, test = *dataset.split(0), dataset.test(0)
    assert [len(train), len(validation), len(test)] == [8, 2, 2]
    ids = np.concatenate([train.ids, validation.ids, test.ids])
    assert sorted(ids) == list(range(12))
    again = data(coco_folder)
    assert again.content_hash == dataset.content_hash
    assert again.split(0)[0].digest() == train.digest()
    assert {tuple(dataset.split(seed)[1].ids) for seed in range(8)} != {tuple(validation.ids)}
    assert dataset.test(5).digest() == test.digest()
    others = {tuple(data(coco_folder, seed).test(0).ids) for seed in range(8)}
    assert len(others) > 1


def test_identical_files_stay_on_one_side(coco_folder):
    for i in range(1, 5):
        shutil.copy(coco_folder / "00.png", coco_folder / f"{i:02d}.png")
    for seed in range(10):
        dataset = data(coco_folder, seed)
        splits = [*dataset.split(seed), dataset.test(0)]
        holding = [set(range(5)) & set(split.ids.tolist()) for split in splits]
        assert sorted(map(len, holding)) == [0, 0, 5]


def test_given_splits_are_taken_and_matched_by_name(coco_folder):
    content = json.loads((coco_folder / "all.json").read_text())
    numbers = {17: 1, 3: 2}
    test = {
        "images": content["images"][8:],
        "annotations": [
            {**a, "category_id": numbers[a["category_id"]]}
            for a in content["annotations"]
            if a["image_id"] >= 108
        ],
        "categories": [{"id": 1, "name": "late"}, {"id": 2, "name": "early"}],
    }
    (coco_folder / "test.json").write_text(json.dumps(test))
    whole = everything(data(coco_folder))
    change(
        coco_folder,
        images=lambda images: images.__delitem__(slice(8, None)),
        annotations=lambda found: found.__delitem__(slice(16, None)),
    )
    dataset = data(coco_folder, test_annotations=str(coco_folder / "test.json"))
    names = [dataset.names[i] for i in dataset.test(0).ids]
    assert names == ["08.png", "09.png", "10.png", "11.png"]
    for name, (boxes, labels, _, _) in everything(dataset).items():
        assert boxes.tolist() == whole[name][0].tolist()
        assert labels.tolist() == whole[name][1].tolist()
    # A fifth of the 7 images whose rarest class is "early"; a quarter of them would be 2.
    assert len(dataset.split(0)[1]) == 1
    assert dataset.describe()["files_not_named"] == 0


def break_everything(folder):
    """One of each mistake; what must be told of it."""
    file = folder / "00.png"
    file.write_bytes(file.read_bytes()[:2000])
    (folder / "01.png").write_text("no image")
    (folder / "02.png").unlink()
    Image.new("RGB", (61, 40)).save(folder / "03.png")

    def boxes(found):
        by_image = {a["image_id"]: a for a in found}
        by_image[104]["bbox"] = [50, 5, 12, 30]
        by_image[105]["bbox"] = [5, 5, 0, 30]
        by_image[106]["category_id"] = 4
        by_image[107]["bbox"] = [5, 5, 10]
        by_image[108]["id"] = by_image[107]["id"]
        found.append({"id": 900, "image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5]})

    def images(found):
        found[9]["id"] = found[8]["id"] = 555

    change(folder, annotations=boxes, images=images)
    return {
        "truncated image": "00.png: ",
        "not an image": "01.png: ",
        "missing image": "02.png: there is no such file",
        "size differs": "03.png: the image has 61 x 40 pixels, its annotations say 60 x 40",
        "box outside the image": "04.png, annotation 9: box 50, 5, 62, 35 lies outside the image "
        "of 60 x 40 pixels",
        "box without area": "05.png, annotation 11: the box is 0 wide and 30 high",
        "unknown category": "06.png, annotation 13: the category 4 is not among",
        "malformed annotation": "07.png, annotation 15: bbox must be four numbers",
        "duplicated id": "08.png: the image id 555 is used 2 times",
        "annotation without its image": "annotation 900: no image has the id 1",
    }


def test_everything_that_is_broken_is_told_at_once(coco_folder):
    wanted = break_everything(coco_folder)
    told = message(coco_folder)
    for kind, text in wanted.items():
        assert f"{kind}: " in told.splitlines()[0]
        assert text in told
    assert "on_error: skip" in told.splitlines()[-1]


def test_what_is_broken_is_left_out_and_recorded_if_asked(coco_folder):
    wanted = break_everything(coco_folder)
    dataset = data(coco_folder, on_error="skip", test_fraction=0.3, validation_fraction=0.3)
    found = everything(dataset)
    assert sorted(found) == ["04.png", "05.png", "06.png", "07.png", "10.png", "11.png"]
    for name in ("04.png", "05.png", "06.png", "07.png"):
        assert found[name][0].tolist() == [[1, 2, 21, 12]]
    record = dataset.describe()["left_out"]
    assert set(record["counts"]) == set(wanted)
    assert sum(record["counts"].values()) == len(record["listed"])


def test_a_duplicated_annotation_counts_once(coco_folder):
    change(coco_folder, annotations=lambda found: found.append(found[0]))
    assert "00.png, annotation 0: another annotation has the same id" in message(coco_folder)
    found = everything(data(coco_folder, on_error="skip"))
    assert len(found["00.png"][0]) == 2


def test_a_message_has_at_most_some_hundred_lines(coco_folder):
    def shift(found):
        for number in range(160):
            found.append({**found[0], "id": 1000 + number, "bbox": [50, 30, 20, 20]})

    change(coco_folder, annotations=shift)
    told = message(coco_folder).splitlines()
    assert told[0].startswith("annotations: 160 problems in the data (box outside the image: 160")
    assert len(told) == 103
    assert told[-2].strip() == "and 60 more"
    # and of every kind of problem its first ones, however many there are of another kind
    (coco_folder / "11.png").write_bytes(b"")
    told = message(coco_folder)
    assert "11.png: cannot identify image file" in told
    assert "and 61 more" in told


def test_boxes_a_pixel_over_the_border_are_cut(coco_folder):
    change(coco_folder, annotations=lambda found: found[0].update(bbox=[-0.5, 10, 61, 30.25]))
    dataset = data(coco_folder)
    assert everything(dataset)["00.png"][0][0].tolist() == [0, 10, 60, 40]
    assert dataset.describe()["boxes_cut_at_the_border"] == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "missing: images, annotations, categories"),
        ('{"images": [], "annotations": []}', "missing: categories"),
        ('{"images": [], "annotations": [], "categories": []}', "all.json names no images"),
        ('{"images": [{}], "annotations": [], "categories": []}', "there are no categories"),
        (
            '{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "a"},'
            ' {"id": 1, "name": "b"}]}',
            "two categories have the id 1",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_file_that_cannot_be_read_is_never_skipped(coco_folder, content, told, on_error):
    (coco_folder / "all.json").write_text(content)
    assert told in message(coco_folder, on_error=on_error)


def test_options_are_checked(coco_folder):
    with pytest.raises(BadInput) as error:
        data(coco_folder, longer_side=100, on_error="go", test_fraction=1.0)
    starts = [problem.split(":")[0] for problem in error.value.problems]
    assert starts == ["longer_side", "test_fraction", "on_error"]
    with pytest.raises(BadInput, match="images: there is no folder"):
        build(0, images=str(coco_folder / "no"), annotations=str(coco_folder / "all.json"))


def test_no_object_in_a_split_is_told(coco_folder):
    change(coco_folder, annotations=lambda found: found.clear())
    told = message(coco_folder)
    assert "annotations: the training split has 7 images and no object" in told


def test_nothing_but_broken_images_is_told_by_file_or_in_one_line(coco_folder):
    for file in coco_folder.glob("*.png"):
        file.write_text("no image")
    told = message(coco_folder, shorter_side=64)
    assert told.startswith("annotations: 12 problems in the data (not an image: 12):\n  00.png: ")
    told = message(coco_folder, on_error="skip")
    assert told.startswith("annotations: no image is left of the data: all are broken (not an im")


def test_files_of_splits_are_told_apart(coco_folder):
    """In many exports every split has a folder of its own and all JSON files have one name."""
    (coco_folder / "other").mkdir()
    content = json.loads((coco_folder / "all.json").read_text())
    content["categories"][0]["name"] = "later"
    content["annotations"][1]["bbox"] = [0, 0, 0, 1]
    (coco_folder / "other" / "all.json").write_text(json.dumps(content))
    told = message(coco_folder, test_annotations=str(coco_folder / "other" / "all.json"))
    assert "other/all.json: 00.png, annotation 1: the box is 0 wide" in told
    assert "annotation 0: the category 'later' is not in the file that `annotations` names" in told
    told = message(coco_folder, validation_annotations=str(coco_folder / "no.json"))
    assert told.startswith("validation_annotations: ")
    assert "no.json cannot be read (No such file or directory)" in told
    told = message(coco_folder, validation_annotations=str(coco_folder / "all.json"),
                   validation_images=str(coco_folder / "no"))  # fmt: skip
    assert told == f"validation_images: there is no folder {coco_folder / 'no'}"


def test_a_folder_in_a_file_name_may_be_gone(coco_folder):
    def rename(images):
        images[0]["file_name"] = "C:\\export\\00.png"
        images[1]["file_name"] = "export/01.png"

    change(coco_folder, images=rename)
    assert len(everything(data(coco_folder))) == 12


def test_a_class_without_objects_in_a_split_is_told():
    splits = {
        name: {"images": 3, "class_counts": [5, n]} for name, n in (("train", 1), ("test", 0))
    }
    record = {"class_names": ["cell", "cel"], "splits": splits}
    assert remarks(record) == ["no object of cel in the test images"]


def test_what_a_person_should_hear_of(coco_folder):
    (coco_folder / "more.png").write_bytes((coco_folder / "00.png").read_bytes())
    dataset = data(coco_folder, test_annotations=str(coco_folder / "all.json"))
    assert remarks(dataset.describe()) == [
        "the given splits share 12 image(s): results look better than they are",
        "1 image file(s) of the folder are not in the annotations",
    ]
