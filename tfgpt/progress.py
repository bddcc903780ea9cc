"""Progress bars on standard error. Where that is no terminal, a line when a task ends instead of a moving bar."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(description: str, total: int | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; give a function that moves it.

    Args:
        description: what is being done.
        total: how many units there are; `None` = not known.
        unit: their name.

    Yields:
        `advance(units=1, note="", completed=None)`; `note` is shown behind the bar, `completed` sets the place instead of moving on.
    """
    start = time.monotonic()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(units: int = 1, note: str | None = None, completed: int | None = None) -> None:
            fields = {} if note is None else {"note": note}
            if completed is None:
                bar.update(task, advance=units, **fields)
            else:
                bar.update(task, completed=completed, **fields)

        yield advance
    console.print(f"{description}: done in {time.monotonic() - start:.1f} s")
