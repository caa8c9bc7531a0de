"""What a terminal shows at the end of a study: names are text, whatever is in them."""

import io

from rich.console import Console

from losslab.analysis.layouts import Layout
from losslab.analysis.layouts.base import Cell
from losslab.progress import terminal_table


def test_brackets_in_names_are_text():
    rows = [[Cell("focal [red]g[/red]"), Cell("0.5 [0.4, 0.6]")], [Cell("[/b]"), Cell(":x: 1")]]
    layout = Layout("results", ["arm", "AP [95 % CI]"], rows, "caption")
    out = io.StringIO()
    Console(file=out, width=100).print(terminal_table(layout, "Is [bold]a[/bold] better?"))
    for text in ("focal [red]g[/red]", "0.5 [0.4, 0.6]", "[/b]", "AP [95 % CI]", "[bold]a[/bold]"):
        assert text in out.getvalue()
