"""What each command of the command line does; everything heavy is imported where it is needed."""

import argparse
import os
import sys

from losslab.errors import BadInput

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def list_kind(options: argparse.Namespace) -> None:
    """What there is of a kind, a line each, or as JSON."""
    from losslab.listing import rows

    found = rows(options.kind)
    if options.json:
        import json

        print(json.dumps(found, indent=2))
        return
    width = max(len(row["name"]) for row in found)
    for row in found:
        print(f"{row['name']:<{width}}  {row['summary']}")


def show(options: argparse.Namespace) -> None:
    """The page of one thing."""
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


def check(options: argparse.Namespace) -> int:
    """Conformance checks of losses; 1 if any fails."""
    from losslab.checking import check

    sys.path.append(os.getcwd())
    passed = True
    for text, good in check(options.losses, options.link, options.set, options.failures):
        print(text, flush=True)
        passed = passed and good
    return DONE if passed else FAILED


def run(options: argparse.Namespace) -> None:
    """Run a study, or plan it."""
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


def status(options: argparse.Namespace) -> None:
    """How far a study is."""
    from losslab.inspecting import status

    print(status(options.study, options.home))


def best(options: argparse.Namespace) -> None:
    """What a study has selected."""
    from losslab.selected import best

    print(best(options.study, options.home, options.arm))


def report(options: argparse.Namespace) -> None:
    """Write the report of one study, or of several."""
    from losslab.reporting import report

    for line in report(options.studies, options.home, options.out, options.tracking_uri):
        print(line)


def export(options: argparse.Namespace) -> None:
    """Write a frame of a study to a file."""
    from losslab.exporting import export

    rows = export(options.study, options.home, options.frame, options.file, options.tracking_uri)
    print(f"{options.file}: {rows} rows")


def surface(options: argparse.Namespace) -> None:
    """Measure and draw the loss around trained networks."""
    from rich.console import Console
    from rich.progress import Progress

    from losslab.surfacing import surface

    sys.path.append(os.getcwd())
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("lines of points", total=None)
        written = surface(
            options.study,
            options.home,
            options.arm,
            options.out,
            points=options.points,
            span=options.span,
            workers=options.workers,
            tell=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(*written, sep="\n")


def figures(options: argparse.Namespace) -> int:
    """Draw every loss and the papers' figures; 1 if what was asked for is missing."""
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


def ui(options: argparse.Namespace) -> int:
    """Open the MLflow UI until it is stopped."""
    from losslab.inspecting import user_interface

    command, environment, addresses = user_interface(options.home, options.port)
    print(addresses, flush=True)
    import subprocess

    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return DONE


def schema(options: argparse.Namespace) -> None:
    """The JSON Schema of a study file."""
    import json

    from losslab.experiments.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
