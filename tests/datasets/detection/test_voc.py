import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from losslab.datasets.detection.voc import build
from losslab.errors import BadInput

BCCD = Path(os.environ.get("LOSSLAB_BCCD", "-"))  # the folder with Annotations and JPEGImages


def data(folder, study_seed=0, **options):
    return build(study_seed, path=str(folder), **{"size": [40, 60], **options})


def everything(dataset):
    found = {}
    for split in (*dataset.split(0), dataset.test(0)):
        for i, own in enumerate(split.ids):
            found[dataset.names[own]] = split.annotations.of(i)
    return found


def message(folder, **options):
    with pytest.raises(BadInput) as error:
        data(folder, **options)
    return str(error.value)


def edit(folder, stem, pattern, text):
    file = folder / "Annotations" / f"{stem}.xml"
    content = file.read_text()
    assert pattern in content
    file.write_text(content.replace(pattern, text, 1))


def test_pixels_counted_from_one_and_difficult_objects(voc_folder):
    found = everything(data(voc_folder))
    assert len(found) == 12
    for name, (boxes, labels, crowd) in found.items():
        assert boxes[0].tolist() == [0, 0, 60, 40]  # 1, 1, 60, 40 in the file: the whole image
        if int(name[:2]) % 3 == 0:
            assert boxes[1].tolist() == [10, 5, 20, 25]
            assert labels.tolist() == [0, 1]
            assert crowd.tolist() == [False, True]
        else:
            assert labels.tolist() == [0]
    boxes, _, _ = everything(data(voc_folder, coordinates="continuous"))["03.jpg"]
    assert boxes.tolist() == [[1, 1, 60, 40], [11, 6, 20, 25]]


def test_lists_give_splits(voc_folder):
    sets = voc_folder / "ImageSets" / "Main"
    (sets / "trainval.txt").write_text("".join(f"{i:02d}  1\n" for i in range(8)))
    (sets / "test.txt").write_text("09\n\n10\n")
    (sets / "val.txt").write_text("00\n05\n")
    dataset = data(voc_folder, train_set="trainval", test_set="test")
    assert [dataset.names[i] for i in dataset.test(0).ids] == ["09.jpg", "10.jpg"]
    assert [len(part) for part in dataset.split(0)] == [6, 2]
    dataset = data(voc_folder, validation_set="val", test_set="test")
    train, validation = dataset.split(3)
    assert [dataset.names[i] for i in validation.ids] == ["00.jpg", "05.jpg"]
    assert len(train) == 8  # all that are in no list
    told = message(voc_folder, test_set="tset", validation_set="dev")
    assert told.startswith("2 mistakes:\n  validation_set: there is no list ")
    assert "tset.txt; did you mean 'test'? (lists: test, trainval, val; null draws the" in told
    (sets / "train.txt").write_text("09\n01\n01\n")
    told = message(voc_folder, train_set="train", test_set="test")
    assert "train.txt: 01 stands in it twice" in told


def test_an_image_in_two_given_splits_is_recorded(voc_folder):
    sets = voc_folder / "ImageSets" / "Main"
    (sets / "train.txt").write_text("01\n02\n03\n04\n05\n06\n")
    (sets / "test.txt").write_text("06\n07\n")
    dataset = data(voc_folder, train_set="train", test_set="test")
    assert dataset.describe()["images_in_several_splits"] == 1


def test_everything_that_is_broken_is_told_at_once_or_left_out(voc_folder):
    file = voc_folder / "JPEGImages" / "00.jpg"
    file.write_bytes(file.read_bytes()[:700])
    (voc_folder / "JPEGImages" / "01.jpg").write_bytes(b"")
    (voc_folder / "JPEGImages" / "02.jpg").unlink()
    (voc_folder / "Annotations" / "03.xml").unlink()
    (voc_folder / "Annotations" / "04.xml").write_text("<annotation><object></annotation>")
    edit(voc_folder, "05", "<xmax>60", "<xmax>90")
    edit(voc_folder, "06", "<ymax>25", "<ymax>6")
    edit(voc_folder, "07", "<name>cat", "<name>cta")
    edit(voc_folder, "08", "<xmin>1", "<xmin>one")
    Image.new("RGB", (40, 60)).save(voc_folder / "JPEGImages" / "09.jpg")
    Image.new("RGB", (60, 40)).save(voc_folder / "JPEGImages" / "10.png")
    wanted = {
        "truncated image": "00.jpg: image file is truncated",
        "not an image": "01.jpg: ",
        "annotation without its image": "02.xml: there is no image of this name",
        "image without annotation": "03.jpg: there is no annotation of this name",
        "unreadable XML": "04.xml: mismatched tag: line 1",
        "box outside the image": "05.xml, object 1: box 0, 0, 90, 40 lies outside",
        "box without area": "06.xml, object 2: the box reaches from 11 to 20 and from 6 to 6",
        "unknown category": "07.xml, object 1: 'cta' is not among the classes; did you mean 'cat'?",
        "malformed annotation": "08.xml, object 1: needs a name and a bndbox",
        "size differs": "09.jpg: the image has 40 x 60 pixels, its annotations say 60 x 40",
        "duplicated id": "10.png: 10.jpg has the same name",
    }
    told = message(voc_folder, classes=["cat", "dog"])
    for kind, text in wanted.items():
        assert f"{kind}: 1" in told.splitlines()[0]
        assert text in told
    dataset = data(voc_folder, classes=["cat", "dog"], on_error="skip",
                   test_fraction=0.3, validation_fraction=0.3)  # fmt: skip
    found = everything(dataset)
    assert sorted(found) == [f"{i:02d}.jpg" for i in (5, 6, 7, 8, 10, 11)]
    assert [len(found[f"{i:02d}.jpg"][0]) for i in (5, 6, 7, 8)] == [0, 1, 0, 0]
    assert set(dataset.describe()["left_out"]["counts"]) == set(wanted)


def test_a_folder_of_another_layout_is_told(tmp_path):
    told = message(tmp_path)
    assert "no folder Annotations and no folder JPEGImages" in told
    assert told.endswith("give the folder that they are in")
    assert message(tmp_path / "no") == f"path: there is no folder {tmp_path / 'no'}"
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "VOC2007" / name).mkdir(parents=True)
    assert message(tmp_path).endswith(f"did you mean {tmp_path / 'VOC2007'}?")
    told = message(tmp_path / "VOC2007")
    assert told == f"path: {tmp_path / 'VOC2007'} has neither images nor annotations"


def test_files_that_a_system_leaves_are_no_data(voc_folder):
    for name in ("JPEGImages/._00.jpg", "Annotations/._00.xml", "JPEGImages/Thumbs.db"):
        (voc_folder / name).write_bytes(b"junk")
    assert len(everything(data(voc_folder))) == 12


def test_rare_classes_are_in_every_split(voc_folder):
    for i in (1, 4, 7):
        edit(voc_folder, f"{i:02d}", "<name>cat", "<name>owl")
    for seed in range(6):
        dataset = data(voc_folder, seed, test_fraction=0.34, validation_fraction=0.33)
        for split in (*dataset.split(seed), dataset.test(0)):
            assert dataset.class_counts(split)[dataset.class_names.index("owl")] == 1


def test_size_0_means_not_known(voc_folder):
    edit(voc_folder, "05", "<width>60", "<width>0")
    assert len(everything(data(voc_folder))) == 12


@pytest.mark.skipif(not BCCD.is_dir(), reason="LOSSLAB_BCCD names no folder")
def test_blood_cells_as_they_come():
    told = message(BCCD)
    assert told.startswith("path: 2 problems in the data (box without area: 2)")
    assert "BloodImage_00338.xml, object 13" in told
    dataset = data(BCCD, on_error="skip", size=[192, 256])
    record = dataset.describe()
    counts = sum(np.array(part["class_counts"]) for part in record["splits"].values())
    names = [
        entry.findtext("name")
        for file in (BCCD / "Annotations").glob("*.xml")
        for entry in ElementTree.parse(file).iter("object")
    ]
    assert dict(zip(dataset.class_names, counts, strict=True)) == {
        "Platelets": names.count("Platelets"),
        "RBC": names.count("RBC") - 2,
        "WBC": names.count("WBC"),
    }
    assert record["image_shape"] == [3, 192, 256]
    given = data(BCCD, on_error="skip", train_set="train", validation_set="val", test_set="test")
    assert [len(part) for part in (*given.split(0), given.test(0))] == [205, 87, 72]
