"""The `check` command: conformance of losses, told as tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from losslab.errors import BadInput


def check(
    losses: Sequence[str], link: str | None, arguments: Sequence[str], failures_only: bool = False
) -> Iterator[tuple[str, bool]]:
    """The table of each case of each loss, and whether all of it passed; the last is a summary.

    `arguments`: "name=value" texts for the constructor, values as in YAML. Raises `BadInput` for
    an unknown loss or one that cannot be built.
    """
    from losslab.losses.conformance import check_loss

    values = constructor_arguments(arguments)
    if "link" in values:
        raise BadInput("--set link: give the link by --link")
    cases, failed = 0, []
    for name in losses:
        for report in check_loss(name, link, **values):
            cases += 1
            failed += [(report, outcome) for outcome in report.failures]
            shown = [f"{report.loss}, {report.case}: {report.counted()}"]
            shown += [f"  {outcome.check}: {outcome.detail}" for outcome in report.failures]
            yield "\n".join(shown) if failures_only else report.table(), not report.failures
    if not failed:
        yield f"\nall checks passed ({cases} cases)", True
        return
    lines = [f"\n{len(failed)} checks failed:"]
    lines += [f"  {r.loss}, {r.case}: {o.check}: {o.detail}" for r, o in failed]
    yield "\n".join(lines), False


def constructor_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Constructor arguments out of "name=value" texts, values as in YAML.

    >>> constructor_arguments(["gamma=1.5"])
    {'gamma': 1.5}
    """
    values: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"--set: expected NAME=VALUE, got {text!r}")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {name}: not a value: {value!r}") from error
    return values
