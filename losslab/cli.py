"""The command line. Everything heavy is imported by the command that needs it."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from losslab import __version__
from losslab.errors import BadInput, LosslabError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

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
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, function: Any, text: str, study: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text[0].lower() + text[1:].split(". ")[0].rstrip("."), description=text
        )
        command.set_defaults(command=function)
        if study:
            command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
            command.add_argument("--home", metavar="DIR", help=HOME_HELP)
        return command

    listing = add("list", _list, "List the losses, datasets, models, metrics or studies there are.")
    kinds = ["losses", "datasets", "models", "metrics", "studies"]
    listing.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")

    show = add("show", _show, "Show one loss, dataset or model: formula, conventions, options.")
    show.add_argument(
        "kind", choices=["loss", "dataset", "model"], metavar="KIND", help="loss, dataset or model"
    )
    show.add_argument("name", metavar="NAME", help="a name or a path such as package.module:Name")
    show.add_argument("--link", help="of a loss: sigmoid, softmax or identity (default: all)")
    show.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="of a loss: a constructor argument, such as alpha=0.25; may be repeated",
    )  # fmt: skip
    show.add_argument("--out", metavar="DIR", help="of a loss: write its page and figures into DIR")

    check = add(
        "check", _check,
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
        "run", _run, "Run a study, or go on with it. What is finished is never run again.", True
    )
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

    add("status", _status, "Say how far a study is.", True)
    best = add("best", _best, "Print the selected configurations, as YAML and as Python.", True)
    best.add_argument("--arm", metavar="ARM", help="one arm only")
    report = add(
        "report", _report,
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
        "export", _export,
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
    figures = add(
        "figures", _figures,
        "Draw every loss, and the figures of the focal, GHM and class-balanced papers.",
    )  # fmt: skip
    figures.add_argument("--out", metavar="DIR", default="figures", help="(default: %(default)s)")
    figures.add_argument(
        "--loss", action="extend", nargs="+", default=[], metavar="NAME",
        help="draw these losses only: names, or paths such as package.module:Name",
    )  # fmt: skip
    ui = add("ui", _ui, "Open the MLflow UI on the local store, at 127.0.0.1.")
    ui.add_argument("--home", metavar="DIR", help=HOME_HELP)
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s, or the next)")
    add("schema", _schema, "Print the JSON Schema of a study file, for editors.")
    return top


def _list(options: argparse.Namespace) -> None:
    from losslab.listing import rows

    found = rows(options.kind)
    if options.json:
        import json

        print(json.dumps(found, indent=2))
        return
    width = max(len(row["name"]) for row in found)
    for row in found:
        print(f"{row['name']:<{width}}  {row['summary']}")


def _show(options: argparse.Namespace) -> None:
    if options.kind != "loss":
        from losslab.listing import page

        if options.link or options.out or options.set:
            raise BadInput("--link, --set and --out are for losses")
        print(page(options.kind, options.name))
        return
    from losslab.analysis.loss_pages import page_of
    from losslab.checking import constructor_arguments

    sys.path.append(os.getcwd())
    found = page_of(options.name, options.link, **constructor_arguments(options.set))
    print(found.text())
    if options.out is None:
        if found.curves:
            print(f"\nFigures: losslab show loss {options.name} --out DIR")
        return
    from losslab.analysis.gallery import write_page
    from losslab.inspecting import writing

    with writing("--out", options.out):
        paths = write_page(found, options.out)
    print("\nWritten:", *paths, sep="\n  ")


def _check(options: argparse.Namespace) -> int:
    from losslab.checking import check

    sys.path.append(os.getcwd())
    passed = True
    for text, good in check(options.losses, options.link, options.set, options.failures):
        print(text, flush=True)
        passed = passed and good
    return DONE if passed else FAILED


def _run(options: argparse.Namespace) -> None:
    workers = options.workers
    if workers is not None and workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {workers}")
    if not options.dry_run and options.executor == "local" and workers != 1:
        from losslab.experiments.forking import start_server

        start_server()  # first: it loads torch while this process does
    from losslab.progress import dry_run, run_with_progress

    given = {"engine": options.engine, "memory": options.memory}
    overrides = [*options.set, *(f"{key}={value}" for key, value in given.items() if value)]
    if options.dry_run:
        print(dry_run(options.study, overrides, options.home, workers))
    else:
        run_with_progress(
            options.study,
            overrides=overrides,
            home=options.home,
            tracking_uri=options.tracking_uri,
            workers=workers,
            executor=options.executor,
            address=options.address,
            gpus_per_task=options.gpus_per_task,
            fresh=options.fresh,
            quiet=options.quiet,
        )


def _status(options: argparse.Namespace) -> None:
    from losslab.inspecting import status

    print(status(options.study, options.home))


def _best(options: argparse.Namespace) -> None:
    from losslab.selected import best

    print(best(options.study, options.home, options.arm))


def _report(options: argparse.Namespace) -> None:
    from losslab.reporting import report

    for line in report(options.studies, options.home, options.out, options.tracking_uri):
        print(line)


def _export(options: argparse.Namespace) -> None:
    from losslab.exporting import export

    rows = export(options.study, options.home, options.frame, options.file, options.tracking_uri)
    print(f"{options.file}: {rows} rows")


def _figures(options: argparse.Namespace) -> int:
    from losslab.analysis.gallery import write_gallery
    from losslab.inspecting import writing

    sys.path.append(os.getcwd())
    missing = 0
    with writing("--out", options.out):
        for written in write_gallery(options.out, options.loss):
            for path in written.paths:
                print(path, flush=True)
            if written.trouble:
                missing += 1
                print(f"{written.subject} is not drawn: {written.trouble}", file=sys.stderr)
    # What was asked for by name and is not there is a failure; a stranger's plugin is not.
    return FAILED if options.loss and missing else DONE


def _ui(options: argparse.Namespace) -> int:
    from losslab.inspecting import user_interface

    command, environment, addresses = user_interface(options.home, options.port)
    print(addresses, flush=True)
    import subprocess

    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return DONE


def _schema(options: argparse.Namespace) -> None:
    import json

    from losslab.experiments.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


def _complain(message: str, code: int) -> int:
    print(f"losslab: {message}", file=sys.stderr)
    return code
