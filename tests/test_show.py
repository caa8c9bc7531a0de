"""`losslab show loss` and `losslab figures`: pages, files and mistakes."""

import re
import subprocess
import sys

import pytest

from losslab.analysis.loss_pages import page_of
from losslab.cli import main
from losslab.losses import LOSSES


@pytest.fixture
def told(capsys):
    """Runs a command that must succeed; what it printed."""

    def told(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return told


@pytest.fixture
def refused(capsys):
    """Runs a command that must end with 2; its complaint."""

    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        return output.err

    return refused


def _section(page, heading):
    """The lines under a heading, without their indent."""
    body = re.search(rf"^{re.escape(heading)}:\n((?:  .*\n|\n)+)", page, re.MULTILINE)
    assert body, heading
    return [line[2:] for line in body[1].splitlines()]


def _row(lines, title, label):
    """The numbers of a row of a table."""
    start = next(place for place, line in enumerate(lines) if line.startswith(title))
    row = next(line for line in lines[start:] if line.startswith(label))
    return [float(cell) for cell in row[len(label) :].split()]


def test_the_page_of_focal(told):
    page = told("show", "loss", "focal")
    assert page.startswith("focal\n=====\n\nFocal loss (Lin et al. 2017): down-weights")
    assert _section(page, "Formula")[0] == "L = w_t (1 - p_t)^gamma (-log p_t)"
    assert "ICCV 2017" in _section(page, "Citation")[0]
    text = "\n".join(_section(page, "Conventions"))
    for line in (
        r"input, sigmoid +logits of any shape; targets of that shape, in \[0, 1\]",
        r"input, softmax +logits \(N, C, \.\.\.\); integer targets \(N, \.\.\.\)",
        r"soft targets +mix both hard losses",
        r"alpha +weight of the positives; the negatives get 1 - alpha",
        r"class_counts +not needed \(sigmoid\); needed where a is not 0 \(softmax\)",
        r"ignored +targets equal to ignore_index \(-100",
        r"reductions +none, mean, sum, positives, weight_sum",
        r"mean +divides by the number of the elements that are not ignored",
        r"state +none",
        r"schedule +none",
        r"second derivatives +right",
    ):
        assert re.search(line, text), line
    assert re.match(
        r"gamma = 2, searched 0 to 5 \(linear\): .* \[Lin",
        _section(page, "Hyper-parameters, link softmax")[0],
    )
    assert "it is 0.5 times ce, link sigmoid" in _section(page, "Identities")[0]
    assert page.rstrip().endswith("Figures: losslab show loss focal --out DIR")


def test_the_tables_of_focal_are_its_formula(told):
    lines = _section(told("show", "loss", "focal", "--link", "sigmoid"), "Curves, link sigmoid")
    # at margin 0: .25 * .5^2 log 2, and -.25 * .25 * (.5 + 2 * .5 log 2)
    assert _row(lines, "loss at margin x_t", "at the defaults, positive")[2] == 0.0433
    assert _row(lines, "gradient at margin x_t", "at the defaults, positive")[2] == -0.0746
    weights = _row(lines, "weight (CE has 1) at p_t", "gamma = 5, negative")
    expected = 0.75 * 0.25**5 * (1 + 5 * 3 * 0.2876820724)  # at p_t .75
    assert weights[3] == pytest.approx(expected, rel=5e-3)
    assert _row(lines, "weight (CE has 1) at p_t", "gamma = 0, positive") == [0.25] * 5


def test_a_page_says_what_is_special():
    text = page_of("ldam").text()
    assert re.search(r"class_counts +needed\n", text)
    assert re.search(r"schedule +changes for the last time after the fraction 0\.8", text)
    assert re.search(r"last layer +cosine", text)
    assert "At the end of its schedule." in " ".join(text.split())
    text = page_of("ghm_c").text()
    assert re.search(r"state +counts \(30,\), in the state dict", text)
    assert "bins = 30" in _section(text, "Structural options")
    assert "What it shares, HarmonizedLoss:" in text
    text = page_of("dice").text()
    assert "average = 'micro' (sigmoid), 'macro' (softmax)" in _section(text, "Structural options")
    assert re.search(r"mean +divides by the number of the sets that count", text)
    assert re.search(r"prior-shifted logits +yes", page_of("balanced_softmax").text())
    assert re.search(r"random draws +of elements", page_of("random_sampling", "sigmoid").text())
    text = page_of("ohem", "sigmoid").text()
    assert re.search(r"mean +divides by the number of the elements that are selected", text)
    assert "In a batch of 20,000 elements, 5% positives" in " ".join(text.split())


def test_files_are_written_and_told(told, tmp_path):
    page = told("show", "loss", "ce", "--out", tmp_path / "new")
    kinds = [f"ce{link}.{kind}" for link in ("", "_softmax") for kind in ("pdf", "png")]
    assert page.split("Written:\n")[1].split() == [
        str(tmp_path / "new" / name) for name in ["ce.md", *kinds]
    ]
    text = (tmp_path / "new" / "ce.md").read_text()
    assert text.startswith("# ce\n\n")
    assert "![The curves of ce, link softmax](ce_softmax.png)" in text
    # whatever is printed is in the file
    for heading in re.findall(r"^(\S.*):$", page.split("Written:")[0], re.MULTILINE):
        assert f"## {heading}\n" in text


def test_losses_of_other_people(told):
    page = told("show", "loss", "torch.nn:BCEWithLogitsLoss")
    assert page.startswith("torch.nn:BCEWithLogitsLoss\n====")
    assert "pos_weight: torch.Tensor | None = None" in _section(page, "Constructor")
    assert _row(_section(page, "Curves, link sigmoid"), "loss at", "at the defaults")[2] == 0.693
    kornia = "kornia.losses:BinaryFocalLossWithLogits"
    page = told("show", "loss", kornia)
    assert "missing 1 required positional argument: 'alpha'" in page.split("No curves:")[1]
    assert "gamma: 'float' = 2.0" in _section(page, "Constructor")
    assert "Figures:" not in page
    page = told("show", "loss", kornia, "--set", "alpha=0.25", "--link", "sigmoid")
    rows = _section(page, "Curves, link sigmoid")
    assert _row(rows, "loss at", "at the defaults, positive")[2] == 0.0433


def test_a_loss_of_ones_own_beside_the_command(tmp_path):
    (tmp_path / "my_loss.py").write_text(
        "from losslab.losses.base import Loss\n"
        "class Square(Loss):\n"
        "    '''The Brier score. It has no more to say.'''\n"
        "    links = ('sigmoid',)\n"
        "    def elementwise(self, logits, targets):\n"
        "        return (logits.sigmoid() - targets) ** 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "losslab", "show", "loss", "my_loss:Square"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n\n")[1] == "The Brier score."
    # 2 (1 - p) p (1 - p) over (1 - p)
    rows = _section(done.stdout, "Curves, link sigmoid")
    assert _row(rows, "weight", "at the defaults") == [0.095, 0.375, 0.5, 0.375, 0.095]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["focl"], "unknown loss 'focl'; did you mean 'focal'?"),
        (["nothing.here:Loss"], "cannot be imported"),
        (["focal", "--link", "identity"], "unknown link 'identity'"),
        (["focal", "--set", "gamma=-1"], "gamma must be at least 0.0, got -1"),
        (["focal", "--set", "gamma"], "expected NAME=VALUE"),
        (["math:pi"], "math:pi is a float"),
        (["torch.nn.functional:cross_entropy"], "is a function"),
        (["ce", "--out", "/proc/nowhere"], "--out: /proc/nowhere cannot be written"),
    ],
)
def test_mistakes_of_show(arguments, complaint, capsys):
    assert main(["show", "loss", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("losslab: ")
    assert complaint in error
    assert "Traceback" not in error


def test_options_of_losses_are_refused_for_others(refused):
    assert "are for losses" in refused("show", "dataset", "digits", "--link", "sigmoid")
    assert "did you mean 'mlp'" in refused("show", "model", "mlpp")


def test_figures_of_chosen_losses(told, tmp_path, capsys):
    lines = told("figures", "--out", tmp_path, "--loss", "giou", "diou").split()
    assert lines == [
        str(tmp_path / "losses" / f"{name}.{kind}")
        for name in ("giou", "diou")
        for kind in ("md", "pdf", "png")
    ]
    assert main(["figures", "--out", str(tmp_path), "--loss", "giou", "--loss", "gio"]) == 2
    assert "did you mean 'giou'" in capsys.readouterr().err
    assert main(["figures", "--out", str(tmp_path), "--loss", "torch.nn:Linear"]) == 1
    output = capsys.readouterr()
    assert output.out.split() == [str(tmp_path / "losses" / "torch.nn.Linear.md")]
    assert re.match(r"torch\.nn:Linear is not drawn: .*'in_features'", output.err)


def test_a_plugin_that_cannot_be_drawn_does_not_fail_the_gallery(tmp_path, monkeypatch, capsys):
    from losslab.analysis import gallery

    monkeypatch.setattr(gallery.LOSSES, "names", lambda: ["torch.nn:Linear", "giou"])
    writers = (
        "write_paper_figures", "write_ghm_figures", "write_class_balanced_figure",
        "write_trajectories", "write_costs", "write_pooling",
    )  # fmt: skip
    for writer in writers:
        monkeypatch.setattr(gallery, writer, lambda folder: [folder / "paper.pdf"])
    assert main(["figures", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert output.out.count("paper.pdf") == len(writers)
    assert str(tmp_path / "losses" / "giou.png") in output.out
    assert "torch.nn:Linear is not drawn" in output.err


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES.names())
def test_every_registered_loss_has_a_whole_page(name):
    page = page_of(name)
    assert page.trouble == ""
    text = page.text()
    for heading in ("Formula", "Citation", "Description", "Conventions"):
        assert _section(text, heading)
    for curves in page.curves:
        assert _section(text, f"Hyper-parameters, link {curves.link}")
        assert _section(text, f"Curves, link {curves.link}")
    assert "nan" not in text.split("Conventions:")[1]
    assert all(len(line) < 140 for line in text.split("Curves, link")[1].splitlines())
