import numpy as np
import pandas as pd
import pytest

from losslab.datasets.table import build
from losslab.errors import BadInput

ROWS = [f"{i},{i * 2},{'ab'[i % 2]}" for i in range(40)]
GOOD = "x,y,kind\n" + "\n".join(ROWS)


def problems(tmp_path, text, name="mine.csv", **options):
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as caught:
        build(0, path=str(file), **{"target": "kind", **options})
    return caught.value.problems


def frame_problems(tmp_path, column, **options):
    frame = pd.DataFrame({"x": np.arange(40), "odd": column, "kind": ["a", "b"] * 20})
    frame.to_parquet(tmp_path / "f.parquet")
    return problems(tmp_path, None, "f.parquet", **options)


@pytest.mark.parametrize(
    ("text", "name", "options", "expected"),
    [
        (None, "mine.csv", {}, "path: no file "),
        ("", "mine.csv", {}, "is empty"),
        ("\n\n", "mine.csv", {}, "is empty"),
        ("x,y,kind\n", "mine.csv", {}, "has no rows"),
        (GOOD, "mine.xlsx", {}, "path: mine.xlsx has an unknown format; known extensions: .csv"),
        (GOOD, "mine.parquet", {}, "cannot be read as Parquet"),
        (GOOD, "mine.csv.gz", {}, "cannot be read: Not a gzipped file"),
        (GOOD, "mine.csv", {"target": "kin"}, "target: no column 'kin'; did you mean 'kind'? "
         "(the 3 columns are: x, y, kind)"),
        (GOOD, "mine.csv", {"target": 3}, "target: column 3 is not there; the table has 3 columns "
         "(0 to 2, or -1 for the last)"),
        ("\n".join(ROWS), "mine.csv", {}, "the first row was not taken for a header"),
        ("x,kind\n" + "1,a\n" * 30, "mine.csv", {}, "target: all 30 rows have the one class 'a'"),
        (GOOD + "\n901,2,rare\n903,4,rare", "mine.csv", {},
         "target: class 'rare' has 2 rows, 2 of them distinct, but the splits need at least 3"),
        (GOOD + "\n901,2,rare" * 9, "mine.csv", {}, "class 'rare' has 9 rows, 1 of them distinct"),
        (GOOD + "\n1,2,\n5,6,NA", "mine.csv", {}, "target: 2 of 42 rows have no value in 'kind' "
         "(rows 41, 42, counted"),
        ("x,kind\n" + "\n".join(f"{i},{i / 7}" for i in range(99)), "mine.csv", {},
         "target: 99 different values in 99 rows (a continuous target?)"),
        ("x,kind\n" + "\n".join(f"{i},id{i}" for i in range(99)), "mine.csv", {},
         "target: 99 different values in 99 rows (a continuous target or an identifier?)"),
        ("x,kind\n" + "\n".join(f"{i if i else 'inf'},{i % 2}" for i in range(50)), "mine.csv", {},
         "path: column 'x' has 1 values that are infinite or beyond 1e+100, the first in row 1"),
        ("e,x,kind\n" + "\n".join(f",{i},{i % 2}" for i in range(50)), "mine.csv", {},
         "path: column 'e' has no values; leave it out with `drop: ['e']`"),
        ("id,kind\n" + "\n".join(f"user{i},{i % 2}" for i in range(50)), "mine.csv", {},
         "path: column 'id' is text with 50 different values in 50 rows (such as 'user0')"),
        ("day,kind\n" + "\n".join(f"2024-01-{i + 1},{i % 2}" for i in range(28)), "mine.csv", {},
         "path: column 'day' holds dates or durations"),
        (GOOD + "\n1,2,3,4", "mine.csv", {}, "cannot be read with separator ','"),
        ("x,kind\n" + "\n".join(f"{i},{i},{i % 2}" for i in range(30)), "mine.csv",
         {"target": "kind", "header": True}, "cannot be read with separator"),
        ("größe,kind\n1,2".encode("latin-1"), "mine.csv", {}, "is not utf-8 text"),
        (GOOD, "mine.csv", {"encoding": "utf-99"}, "encoding: unknown encoding: utf-99"),
        (GOOD, "mine.csv", {"drop": ["x", "y"]}, "drop: no feature column is left"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_clear_line(tmp_path, text, name, options, expected):
    found = problems(tmp_path, text, name, **options)
    assert len(found) == 1, found
    assert expected in found[0], found
    assert ": " in found[0][:30]  # begins with an option


def test_a_misspelt_file_name_gets_the_nearest(tmp_path):
    (tmp_path / "mammography.csv").write_text(GOOD)
    assert "did you mean 'mammography.csv'?" in problems(tmp_path, None, "mamography.csv")[0]
    with pytest.raises(BadInput, match="is a folder"):
        build(0, path=str(tmp_path), target="kind")
    with pytest.raises(BadInput, match="there is no folder"):
        build(0, path=str(tmp_path / "nowhere" / "x.csv"), target="kind")


def test_all_option_mistakes_are_told_before_the_file_is_opened(tmp_path):
    found = problems(
        tmp_path, None, target=1.5, header="maybe", separator=",,", categorical="colour",
        drop="x", standardise="no", test_fraction=0, validation_fraction=2,
    )  # fmt: skip
    assert [line.split(":")[0] for line in found] == [
        "target", "header", "separator", "categorical", "drop", "standardise", "test_fraction",
        "validation_fraction",
    ]  # fmt: skip


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    text = (
        "id,empty,x,kind\n" + "\n".join(f"u{i},,{i},{'ab'[i % 2]}" for i in range(60)) + "\nu,,1,"
    )
    found = problems(tmp_path, text, drop=["colour"], categorical=["kind"])
    starts = ["drop: no column 'colour'", "categorical: 'kind' is the target", "target: 1 of 61",
              "path: column 'id'", "path: column 'empty'"]  # fmt: skip
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


def test_dropping_rows_without_a_target_keeps_the_ids_of_the_file(tmp_path):
    (tmp_path / "m.csv").write_text("x,y,kind\n7,7,\n" + "\n".join(ROWS))
    data = build(0, path=str(tmp_path / "m.csv"), target="kind", drop_missing_target=True)
    ids = np.concatenate([s.ids for s in (*data.split(0), data.test(0))])
    assert sorted(ids) == list(range(1, 41))


def test_listing_an_identifier_as_categorical_is_obeyed(tmp_path):
    text = "id,kind\n" + "\n".join(f"user{i},{i % 2}" for i in range(50))
    (tmp_path / "m.csv").write_text(text)
    data = build(0, path=str(tmp_path / "m.csv"), target="kind", categorical=["id"])
    assert data.split(0)[0].features.shape == (30, 30)


def test_parquet_columns_that_cannot_be_used(tmp_path):
    dates = pd.date_range("2024-01-01", periods=40)
    assert "holds dates" in frame_problems(tmp_path, dates)[0]
    assert "holds dates" in frame_problems(tmp_path, dates - dates[0])[0]
    assert "lists or records" in frame_problems(tmp_path, [[1, 2]] * 40)[0]


def test_parquet_columns_that_can(tmp_path):
    from decimal import Decimal

    frame = pd.DataFrame(
        {
            "nullable": pd.array([1, None, 3, 4] * 10, dtype="Int64"),
            "truth": [True, False] * 20,
            "maybe": pd.array([True, None, False, True] * 10, dtype="boolean"),
            "category": pd.Categorical(["u", "v", None, "u"] * 10),
            "decimal": [Decimal("1.5"), None, Decimal("2"), Decimal("3")] * 10,
            "x": np.arange(40, dtype=np.int8),
            "kind": pd.Categorical(["a", "a", "a", "b"] * 10),
        }
    )
    frame.to_parquet(tmp_path / "f.parquet")
    data = build(0, path=str(tmp_path / "f.parquet"), target="kind", standardise=False)
    train = data.split(0)[0]
    # five numeric, three indicators (nullable, maybe, decimal), three categories (u, v, missing)
    assert train.features.shape[1] == 5 + 3 + 3
    assert (train.features[:, 1] == (train.ids % 2 == 0)).all()
    assert (train.features[:, 5] == (train.ids % 4 == 1)).all()
    assert data.class_names == ["a", "b"]


def test_mixed_columns_and_numbers_in_quotes(tmp_path):
    rows = [f"{'high' if i % 9 == 0 else i % 5},'{i}',{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "m.csv").write_text("level,quoted,kind\n" + "\n".join(rows))
    data = build(0, path=str(tmp_path / "m.csv"), target="kind", standardise=False)
    train = data.split(0)[0]
    assert (train.features[:, 0] == train.ids).all()
    assert train.features.shape[1] == 1 + 6
