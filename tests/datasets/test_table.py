import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_wine

from losslab.datasets.base import Dataset
from losslab.datasets.table import build
from losslab.errors import BadInput

MAMMOGRAPHY = Path(__file__).parents[2].parent / "shared" / "data" / "mammography.csv"


def make(tmp_path, text, name="mine.csv", **options):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return build(0, path=str(file), **{"target": "kind", **options})


def counts(data: Dataset, run_seed=0):
    splits = [*data.split(run_seed), data.test(run_seed)]
    return [data.class_counts(split).tolist() for split in splits]


def mixed_table(n=200, seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "größe": random.normal(50, 10, n),
            "age": random.integers(18, 90, n),
            "colour": random.choice(["red", "green", "blue"], n),
            "constant": 1,
            "kind": np.where(random.random(n) < 0.2, "sick", "well"),
        }
    )


@pytest.mark.skipif(not MAMMOGRAPHY.exists(), reason="the mammography table is not here")
def test_mammography_as_it_comes():
    data = build(0, path=str(MAMMOGRAPHY), target=-1)
    assert data.class_names == ["-1", "1"]
    assert np.array(counts(data)).sum(axis=0).tolist() == [10923, 260]
    assert counts(data) == [[6553, 156], [2185, 52], [2185, 52]]
    raw = pd.read_csv(MAMMOGRAPHY, header=None)
    seen = [set(map(tuple, raw.iloc[s.ids, :6].to_numpy())) for s in (*data.split(1), data.test(1))]
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]
    train = data.split(1)[0]
    assert train.features.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-4)
    assert (train.targets == (raw.iloc[train.ids, 6] == "'1'")).all()
    by_name = build(0, path=str(MAMMOGRAPHY), target="column_6", header=False, positive="'-1'")
    assert by_name.class_names == ["1", "-1"]


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_real_tables_give_every_class_its_share(tmp_path, load):
    source = load(as_frame=True)
    source.frame.to_csv(tmp_path / "real.csv", index=False)
    data = build(0, path=str(tmp_path / "real.csv"), target="target", test_fraction=0.25)
    train, validation = data.split(3)
    expected = source.target.value_counts().to_numpy()
    found = np.array(counts(data, 3))
    assert sorted(found.sum(axis=0)) == sorted(expected)
    assert found[2] == pytest.approx(found.sum(axis=0) * 0.25, abs=1)
    assert found[1] == pytest.approx(found.sum(axis=0) * 0.2, abs=1)
    original = source.data.to_numpy()[train.ids]
    standard = (original - original.mean(axis=0)) / original.std(axis=0)
    assert train.features == pytest.approx(standard.astype(np.float32), abs=1e-4)
    standard = (source.data.to_numpy()[validation.ids] - original.mean(0)) / original.std(0)
    assert validation.features == pytest.approx(standard.astype(np.float32), abs=1e-4)


def test_every_format_holds_the_same_data(tmp_path):
    frame = mixed_table()
    text = frame.to_csv(index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.set_index("age").to_parquet(tmp_path / "indexed.parquet")
    files = {
        "t.csv": text.encode(),
        "bom.csv": b"\xef\xbb\xbf" + text.encode(),
        "semicolon.csv": frame.to_csv(index=False, sep=";").encode(),
        "t.tsv": frame.to_csv(index=False, sep="\t").encode(),
        "pipes.data": frame.to_csv(index=False, sep="|").encode(),
        "white.txt": frame.to_csv(index=False, sep=" ").encode(),
        "t.csv.gz": gzip.compress(text.encode()),
        "spaces.csv": text.replace(",", ", ").encode(),
        "crlf.csv": b"\r\n" + text.replace("\n", "\r\n").encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    latin = tmp_path / "latin.csv"
    latin.write_bytes(text.encode("latin-1"))
    built = {name: build(0, path=str(tmp_path / name), target="kind") for name in files}
    built["parquet"] = build(0, path=str(tmp_path / "t.parquet"), target="kind")
    built["latin"] = build(0, path=str(latin), target="kind", encoding="latin-1")
    digests = {name: data.split(1)[0].digest() for name, data in built.items()}
    assert len(set(digests.values())) == 1, digests
    assert built["t.csv"].feature_names == ["größe", "age", "colour", "constant"]
    assert built["t.csv"].content_hash == built["bom.csv"].content_hash
    indexed = build(0, path=str(tmp_path / "indexed.parquet"), target="kind")
    assert indexed.feature_names[0] == "age"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["'-1'", "'1'"], ["-1", "1"]),
        (["0", "1"], ["0", "1"]),
        (["1.0", "2"], ["1", "2"]),
        (["0.5", "1.5"], ["0.5", "1.5"]),
        (["True", "False"], ["True", "False"]),
        (["None", "?"], ["None", "?"]),
        ([' "yes" ', "no"], ["yes", "no"]),
        (["0012345678901234567", "12345678901234568"], ["12345678901234567", "12345678901234568"]),
    ],
)
def test_labels_of_many_kinds(tmp_path, labels, names):
    rows = [f"{i};{labels[i % 4 == 0]}" for i in range(80)]  # the second label is the rarer one
    data = make(tmp_path, "x;kind\n" + "\n".join(rows), header=True)
    assert data.class_names == names
    assert np.array(counts(data)).sum(axis=0).tolist() == [60, 20]


def test_positive_is_the_rarer_class_unless_named(tmp_path):
    rows = "\n".join(f"{i},{'yes' if i % 3 else 'no'}" for i in range(60))
    text = "x,kind\n" + rows
    assert make(tmp_path, text).class_names == ["yes", "no"]
    assert make(tmp_path, text, positive="yes").class_names == ["no", "yes"]
    assert make(tmp_path, text, positive=True).class_names == ["no", "yes"]  # YAML's bare yes
    with pytest.raises(BadInput, match=r"positive: no class 'yess'; did you mean 'yes'\?"):
        make(tmp_path, text, positive="yess")
    many = "x,kind\n" + "\n".join(f"{i},{i % 11}" for i in range(330))
    assert make(tmp_path, many).class_names == [str(i) for i in range(11)]
    with pytest.raises(BadInput, match="only a target of two classes"):
        make(tmp_path, many, positive=1)


@pytest.mark.parametrize(
    ("first", "target", "names"),
    [
        ("1.5,2,a", 2, ["column_0", "column_1"]),  # numbers: data
        ("width,height,kind", "kind", ["width", "height"]),
        ("width,height,kind", -1, ["width", "height"]),
        ("width,width,kind", -1, ["width", "width.1"]),
    ],
)
def test_header_is_seen(tmp_path, first, target, names):
    rows = "\n".join(f"{i}.5,{i * i},{'ab'[i % 2]}" for i in range(40))
    data = make(tmp_path, f"{first}\n{rows}", target=target)
    assert data.feature_names == names
    total = np.array(counts(data)).sum()
    assert total == (41 if first[0] == "1" else 40)


def test_a_table_of_texts_has_a_header_unless_its_first_cells_recur(tmp_path):
    rows = "\n".join(f"{'xyz'[i % 3]},{'uvrstw'[i % 6]},{'pe'[i % 2]}" for i in range(84))
    # Three distinct rows a class: one for each split.
    assert make(tmp_path, "cap,odor,kind\n" + rows, target=-1).feature_names == ["cap", "odor"]
    data = make(tmp_path, rows, target=-1)
    assert data.feature_names == ["column_0", "column_1"]
    assert np.array(counts(data)).sum() == 84


def test_missing_values_take_the_training_median_and_an_indicator(tmp_path):
    values = [str(i) if i % 5 else "?" for i in range(100)]
    rows = "\n".join(f"{v},{i},{'ab'[i % 2]}" for i, v in enumerate(values))
    data = make(tmp_path, "x,y,kind\n" + rows, standardise=False)
    train, validation = data.split(0)
    assert train.features.shape[1] == 3  # x, y, x is missing
    present = [float(values[i]) for i in train.ids if values[i] != "?"]
    for split in (train, validation, data.test(0)):
        gone = np.array([values[i] == "?" for i in split.ids])
        assert gone.any()
        assert (split.features[:, 2] == gone).all()
        assert (split.features[gone, 0] == np.float32(np.median(present))).all()
        assert (split.features[:, 1] == split.ids).all()


def test_categories_are_those_of_training_and_unknown_ones_are_zeros(tmp_path):
    colours = ["red", "green", ""]
    rows = [f"{colours[i % 3] if i != 9 else 'only-once'},{i},{'ab'[i % 2]}" for i in range(90)]
    data = make(tmp_path, "colour,x,kind\n" + "\n".join(rows))
    seen_out = seen_in = False
    for run_seed in range(12):
        train, validation = data.split(run_seed)
        if 9 in train.ids:
            seen_in = True
            assert train.features.shape[1] == 1 + 4
        else:
            seen_out = True
            assert train.features.shape[1] == 1 + 3
            row = validation.features[validation.ids == 9]
            assert not row[:, 1:].any()
        assert (train.features[:, 1:].sum(axis=1) == 1).all()
    assert seen_in
    assert seen_out


def test_numbers_listed_as_categorical_become_categories(tmp_path):
    rows = "\n".join(f"{i % 4},{i},{'ab'[i % 2]}" for i in range(80))
    plain = make(tmp_path, "zone,x,kind\n" + rows).split(0)[0]
    listed = make(tmp_path, "zone,x,kind\n" + rows, categorical=["zone"]).split(0)[0]
    assert plain.features.shape[1] == 2
    assert listed.features.shape[1] == 1 + 4
    dropped = make(tmp_path, "zone,x,kind\n" + rows, drop=[0])
    assert dropped.feature_names == ["x"]


def test_preprocessing_does_not_see_validation_or_test_rows(tmp_path):
    frame = mixed_table()
    frame.to_csv(tmp_path / "a.csv", index=False)
    before = build(0, path=str(tmp_path / "a.csv"), target="kind")
    train, validation = before.split(2)
    outside = np.setdiff1d(np.arange(len(frame)), train.ids)
    frame.loc[outside, "größe"] = frame.loc[outside, "größe"] * 1000 + 7
    frame.loc[outside[::2], "colour"] = "never seen in training"
    frame.to_csv(tmp_path / "a.csv", index=False)
    after = build(0, path=str(tmp_path / "a.csv"), target="kind")
    changed = after.split(2)
    assert (changed[0].ids == train.ids).all()
    assert (changed[0].features == train.features).all()
    assert not (changed[1].features == validation.features).all()
    assert after.content_hash != before.content_hash


@st.composite
def tables(draw):
    n = draw(st.integers(30, 90))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = random.integers(0, draw(st.integers(3, 60)), n)
    labels = rows % draw(st.integers(2, 3))
    labels[0] = 1
    labels[random.random(n) < 0.05] = 0
    # Four distinct rows of every class, so that each table can be split.
    rows = np.concatenate([rows, np.arange(100, 112)])
    labels = np.concatenate([labels, np.arange(12) % (labels.max() + 1)])
    return pd.DataFrame({"a": rows * 0.5, "b": rows % 7, "kind": labels})


@given(tables(), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_no_row_is_on_two_sides_whatever_repeats(tmp_path_factory, frame, run_seed):
    file = tmp_path_factory.mktemp("tables") / "t.csv"
    frame.to_csv(file, index=False)
    data = build(1, path=str(file), target="kind", header=True)
    splits = [*data.split(run_seed), data.test(run_seed)]
    assert sorted(np.concatenate([s.ids for s in splits])) == list(range(len(frame)))
    values = [set(frame["a"].iloc[s.ids]) for s in splits]
    assert not values[0] & values[1]
    assert not (values[0] | values[1]) & values[2]
    assert all((np.array(data.class_counts(s)) > 0).all() for s in splits)
    assert (data.test(run_seed + 1).ids == splits[2].ids).all()


def test_thousands_of_columns_and_constant_ones(tmp_path):
    wide = np.random.default_rng(0).normal(size=(60, 2000))
    wide[:, 5] = 3.0
    frame = pd.DataFrame(wide)
    frame["kind"] = np.arange(60) % 2
    frame.to_csv(tmp_path / "wide.csv", index=False)
    train = build(0, path=str(tmp_path / "wide.csv"), target=-1, header=True).split(0)[0]
    assert train.features.shape[1] == 2000
    assert (train.features[:, 5] == 0).all()
    assert np.isfinite(train.features).all()


def test_negative_zero_and_zero_are_the_same_row(tmp_path):
    rows = [f"{'-0.0' if i % 2 else '0.0'},{i // 2},{'ab'[(i // 2) % 2]}" for i in range(80)]
    data = make(tmp_path, "x,y,kind\n" + "\n".join(rows))
    for split in (*data.split(0), data.test(0)):
        assert (np.bincount(split.ids // 2) % 2 == 0).all()


def test_the_folder_does_not_change_the_content_hash(tmp_path):
    frame = mixed_table()
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        frame.to_csv(tmp_path / name / "t.csv", index=False)
        hashes.append(build(0, path=str(tmp_path / name / "t.csv"), target="kind").content_hash)
    assert hashes[0] == hashes[1]
