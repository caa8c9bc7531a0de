import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LOSSLAB_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(seed, width=60, height=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def coco_folder(tmp_path):
    """Twelve images with two boxes each, but the last without any; category ids 3 and 17."""
    images, annotations = [], []
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"{i:02d}.png")
        images.append({"id": 100 + i, "file_name": f"{i:02d}.png", "width": 60, "height": 40})
        if i < 11:
            for k, (category, box) in enumerate([(17, [1, 2, 20, 10]), (3, [30, 5, 12.5, 30])]):
                annotations.append(
                    {"id": 2 * i + k, "image_id": 100 + i, "category_id": category, "bbox": box,
                     "area": box[2] * box[3] / 2, "iscrowd": int(i == 1 and k == 1)}
                )  # fmt: skip
    categories = [{"id": 17, "name": "late"}, {"id": 3, "name": "early"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(content))
    return tmp_path


def voc_xml(objects, width=60, height=40):
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    for name, corners, difficult in objects:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = name
        ElementTree.SubElement(entry, "difficult").text = str(difficult)
        box = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, key).text = str(value)
    return ElementTree.tostring(root)


@pytest.fixture
def voc_folder(tmp_path):
    """Twelve images with a cat each, every third with a difficult dog too."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / "JPEGImages" / f"{i:02d}.jpg")
        objects = [("cat", (1, 1, 60, 40), 0)]
        if i % 3 == 0:
            objects.append(("dog", (11, 6, 20, 25), 1))
        (tmp_path / "Annotations" / f"{i:02d}.xml").write_bytes(voc_xml(objects))
    return tmp_path
