"""scikit-learn's tables as datasets: their numbers as they are, thinned as told."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from losslab.datasets import DATASETS
from losslab.errors import BadInput


@pytest.mark.parametrize(
    ("table", "load"), [("breast_cancer", load_breast_cancer), ("wine", load_wine)]
)
def test_every_row_is_in_one_split_with_its_own_numbers(table, load):
    source = load()
    data = DATASETS.create("sklearn_table", study_seed=0, table=table)
    splits = [*data.split(3), data.test(3)]
    ids = np.concatenate([split.ids for split in splits])
    assert sorted(ids) == list(range(len(source.target)))
    names = np.array(data.class_names)
    for split in splits:
        assert (split.features == source.data[split.ids].astype(np.float32)).all()
        assert (names[split.targets] == source.target_names[source.target[split.ids]]).all()
    assert (data.test(0).ids == data.test(7).ids).all()
    assert not np.array_equal(data.split(0)[0].ids, data.split(1)[0].ids)


def test_malignant_is_positive_and_thinned_in_training_alone():
    data = DATASETS.create("sklearn_table", study_seed=0, imbalance_factor=10)
    assert data.class_names == ["benign", "malignant"]
    train, validation = data.split(0)
    counts = data.class_counts(train)
    assert counts[1] == counts[0] // 10
    assert data.class_counts(validation).min() > 0.3 * len(validation)
    assert train.features.std(0).max() / train.features.std(0).min() > 1e4


def test_classes_fall_geometrically():
    data = DATASETS.create("sklearn_table", study_seed=0, table="wine", imbalance_factor=9)
    largest, middle, smallest = data.class_counts(data.split(0)[0])
    assert (middle, smallest) == (largest // 3, largest // 9)


def test_mistakes_are_told():
    with pytest.raises(BadInput, match="imbalance_factor: class 1 would have 0 rows; the largest"):
        DATASETS.create("sklearn_table", study_seed=0, imbalance_factor=1e4)
    with pytest.raises(BadInput, match="table"):
        DATASETS.create("sklearn_table", study_seed=0, table="iris")
