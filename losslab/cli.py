"""The command line. Everything heavy is imported by the command that needs it."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from losslab import __version__, commands
from losslab.commands import BAD_INPUT, DONE, FAILED, INTERRUPTED
from losslab.errors import BadInput, LosslabError

STUDY_HELP = "a shipped study's name (see `losslab list studies`) or a path to a .yaml file"
HOME_HELP = "where studies live (default: LOSSLAB_HOME, else ./runs)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went (0, 1 failed, 2 bad input, 130 stopped)."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options) or DONE
    except BadInput as error:
        return _complain(str(error), BAD_INPUT)
    except LosslabError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        hint = "interrupted; nothing is lost, and the same command goes on from here"
        return _complain(hint, INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        hint = "the disk is full; what was finished is kept: free some space and run again"
        return _complain(hint, FAILED)


def parser() -> argparse.ArgumentParser:
    """All commands with their help."""
    top = argparse.ArgumentParser(
        prog="losslab",
        description="Which loss is better for this imbalanced problem, by how much, how surely?",
        epilog="A first study: `losslab run quickstart`. Your own: write a .yaml file and run it.",
    )
    top.add_argument("--version", action="version", version=f"losslab {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, function: Any, text: str, study: bool = False) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name, help=text[0].lower() + text[1:].split(". ")[0].rstrip("."), description=text
        )
        command.set_defaults(command=function)
        if study:
            command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
            command.add_argument("--home", metavar="DIR", help=HOME_HELP)
        return command

    listing = add(
        "list", commands.list_kind,
        "List what there is: losses, adversarial losses, datasets, models, settings of models, "
        "recorders, metrics, studies.",
    )  # fmt: skip
    kinds = [
        "losses", "adversarial", "datasets", "models", "settings", "recorders", "metrics",
        "studies",
    ]  # fmt: skip
    listing.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")

    show = add("show", commands.show, "Show one loss, dataset, model or setting: formula, options.")
    kinds = ["loss", "dataset", "model", "setting", "recorder"]
    show.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    show.add_argument("name", metavar="NAME", help="a name or a path such as package.module:Name")
    show.add_argument("--link", help="of a loss: sigmoid, softmax or identity (default: all)")
    show.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="of a loss: a constructor argument, such as alpha=0.25; may be repeated",
    )  # fmt: skip
    show.add_argument("--out", metavar="DIR", help="of a loss: write its page and figures into DIR")

    check = add(
        "check", commands.check,
        "Check losses: gradient, extremes, conventions, state, transforms, identities. Exit code 1 "
        "if anything fails.",
    )  # fmt: skip
    check.add_argument(
        "losses", nargs="+", metavar="LOSS", help="a name, or a path such as package.module:Name"
    )
    check.add_argument("--link", help="sigmoid, softmax or identity (default: all it has)")
    check.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a constructor argument, such as alpha=0.25; may be repeated",
    )  # fmt: skip
    check.add_argument("--failures", action="store_true", help="print only what failed")

    run = add(
        "run",
        commands.run,
        "Run a study, or go on with it. What is finished is never run again.",
        True,
    )  # fmt: skip
    run.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE",
        help="change a key of the study file, such as search.trials=8; may be repeated",
    )  # fmt: skip
    run.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: all cores; same results)"
    )
    run.add_argument(
        "--executor", choices=["local", "ray"], default="local",
        help="processes of this machine, or a Ray cluster (default: %(default)s; docs/scaling.md)",
    )  # fmt: skip
    run.add_argument(
        "--address", metavar="ADDRESS",
        help="of the Ray cluster: host:port or auto (default: Ray is started on this machine)",
    )  # fmt: skip
    run.add_argument(
        "--gpus-per-task", type=float, default=0.0, metavar="N",
        help="of a Ray cluster: the share of a GPU that each task gets (default: 0)",
    )  # fmt: skip
    run.add_argument(
        "--engine", choices=["auto", "plain", "stacked"],
        help="trainings one by one, or many as one program (default: the study file's, else auto)",
    )  # fmt: skip
    run.add_argument(
        "--memory", metavar="SIZE", help="what one stack may take, such as 500MB (default: 1 GB)"
    )
    run.add_argument("--dry-run", action="store_true", help="say what would run, and how long")
    run.add_argument("--fresh", action="store_true", help="start anew; earlier runs are set aside")
    run.add_argument("--quiet", action="store_true", help="print errors only")
    run.add_argument(
        "--tracking-uri", metavar="URI",
        help="an MLflow server instead of the local store; none: do without MLflow",
    )  # fmt: skip

    add("status", commands.status, "Say how far a study is.", True)
    best = add(
        "best", commands.best, "Print the selected configurations, as YAML and as Python.", True
    )
    best.add_argument("--arm", metavar="ARM", help="one arm only")
    report = add(
        "report", commands.report,
        "Write a study's report: a page, tables, figures, LaTeX. Several studies are compared.",
    )  # fmt: skip
    report.add_argument("studies", metavar="STUDY", nargs="+", help=STUDY_HELP)
    report.add_argument("--home", metavar="DIR", help=HOME_HELP)
    report.add_argument(
        "--out", metavar="DIR",
        help="where to (default: the study's report folder; of several, HOME/reports/NAMES)",
    )  # fmt: skip
    report.add_argument(
        "--tracking-uri", metavar="URI",
        help="read the study from this MLflow server (default: from its folder)",
    )  # fmt: skip
    export = add(
        "export", commands.export,
        "Export a study's runs as a table. One row of confirmation is a run on test, of trials a "
        "search trial or a re-training, of epochs an epoch of a run, of selected a selected "
        "configuration, of ledger what an arm spent, of arms an arm and what it is, of long a "
        "cell of the results table. In a CSV file, long is written for LaTeX packages such as "
        "pgfplotstable: column names of letters only, texts escaped. Columns: docs/frames.md.",
        True,
    )  # fmt: skip
    export.add_argument("file", metavar="FILE", help="a path ending in .parquet or .csv")
    frames = ["confirmation", "trials", "epochs", "selected", "ledger", "arms", "long"]
    export.add_argument(
        "--frame", choices=frames, default="confirmation", help="which table (default: %(default)s)"
    )
    export.add_argument(
        "--tracking-uri", metavar="URI",
        help="read the study from this MLflow store, where its experiment has its name, such as "
        "https://host or sqlite:////home/ann/runs/mlflow.db (default: from its folder)",
    )  # fmt: skip
    surface = add(
        "surface", commands.surface,
        "Measure and draw the loss around a study's trained networks. A plane through the first "
        "test run of each arm and a profile of every run, along random directions that are "
        "normalised filter by filter (Li et al. 2018). Some minutes: docs/landscapes.md.",
        True,
    )  # fmt: skip
    surface.add_argument(
        "--arm", action="extend", nargs="+", default=[], metavar="ARM",
        help="these arms only (default: all that the study file names)",
    )  # fmt: skip
    surface.add_argument(
        "--out", metavar="DIR", help="where to (default: `surface` in the study's folder)"
    )
    surface.add_argument(
        "--points", type=int, default=25, metavar="N", help="of a side (default: %(default)s)"
    )
    surface.add_argument(
        "--span", type=float, default=1.0, metavar="X",
        help="how far it reaches, in norms of the weights (default: %(default)s)",
    )  # fmt: skip
    surface.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: all cores; same results)"
    )
    figures = add(
        "figures", commands.figures,
        "Draw every loss, the figures of the focal, GHM and class-balanced papers, optimisers on "
        "known surfaces, and models by parameters and FLOPs.",
    )  # fmt: skip
    figures.add_argument("--out", metavar="DIR", default="figures", help="(default: %(default)s)")
    figures.add_argument(
        "--loss", action="extend", nargs="+", default=[], metavar="NAME",
        help="draw these losses only: names, or paths such as package.module:Name",
    )  # fmt: skip
    ui = add("ui", commands.ui, "Open the MLflow UI on the local store, at 127.0.0.1.")
    ui.add_argument("--home", metavar="DIR", help=HOME_HELP)
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s, or the next)")
    add("schema", commands.schema, "Print the JSON Schema of a study file, for editors.")
    return top


def _complain(message: str, code: int) -> int:
    print(f"losslab: {message}", file=sys.stderr)
    return code
