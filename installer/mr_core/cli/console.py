"""The terminal sink: live bars on stderr while something runs, one line for each finished phase.

The only user of rich.
"""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from mr_core.cli.lines import blob_line, phase_line, shorten
from mr_core.cli.units import show_bytes, show_seconds
from mr_core.errors import printable
from mr_core.events import (
    BlobFinished,
    BlobProgress,
    Event,
    Level,
    Notice,
    Outcome,
    Output,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Unit,
)

_NARROW = 90
_TEXT_WIDTH = 60
"""Columns that the text beside a bar may take."""


class _Amount(ProgressColumn):
    """Position and total in the task's unit; speed and remaining time too, unless it must be ``brief``."""

    def __init__(self, *, brief: bool) -> None:
        super().__init__()
        self._brief = brief

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(show_seconds(task.elapsed or 0), style="dim")
        done, total = int(task.completed), int(task.total)
        if task.fields.get("unit") is not Unit.BYTES:
            return Text(f"{done}/{total}", style="dim")
        if self._brief:
            return Text(f"{show_bytes(done)} of {show_bytes(total)}", style="dim")
        speed = f"  {show_bytes(int(task.speed))}/s" if task.speed else ""
        left = f"  {round(task.time_remaining)} s left" if task.time_remaining else ""
        return Text(f"{show_bytes(done)} of {show_bytes(total)}{speed}{left}", style="dim")


class _Bar(BarColumn):
    """A bar for tasks whose total is known; the spinner alone is enough for the others."""

    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]  # a column renders anything
        return Text("") if task.total is None else super().render(task)


def _bar_width(width: int) -> int:
    return max(8, min(40, width - _TEXT_WIDTH))


class RichConsole:
    """Shows events on a terminal.

    Attributes:
        show_output: Whether lines of child processes are shown.
    """

    def __init__(self, stream: IO[str], *, verbose: bool = False) -> None:
        self._console = Console(file=stream, highlight=False)
        self._verbose = verbose
        self.show_output = verbose
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), _Bar(bar_width=_bar_width(self._console.width)),
            _Amount(brief=self._console.width < _NARROW), console=self._console, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, PhaseStarted] = {}
        self._progress.start()

    def close(self) -> None:
        """Remove the live part and give the cursor back."""
        for key in list(self._tasks):
            self._drop(key)
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case PhaseStarted():
                self._started[event.phase] = event
                name = shorten(f"{event.phase:<11} {event.subject}", self._console.width // 3)
                self._tasks[event.phase] = self._progress.add_task(name, total=event.total, unit=event.unit)
            case PhaseProgress():
                if event.phase in self._tasks:
                    self._progress.update(self._tasks[event.phase], completed=event.done)
            case PhaseFinished():
                self._drop(event.phase)
                line = phase_line(event, self._started.pop(event.phase, None), width=self._console.width - 2)
                self._print(self._mark(event.outcome), line)
            case BlobProgress() | BlobFinished():
                self._blob(event)
            case Output():
                if self.show_output:
                    self._print(" ", f"{event.source}: {event.line}")
            case Notice():
                self._notice(event)

    def _blob(self, event: BlobProgress | BlobFinished) -> None:
        name = event.label or event.digest[:19]
        match event:
            case BlobProgress():
                if event.digest not in self._tasks:
                    self._tasks[event.digest] = self._progress.add_task(f"  {name}", total=event.total, unit=Unit.BYTES)
                self._progress.update(self._tasks[event.digest], completed=event.offset)
            case BlobFinished():
                self._drop(event.digest)
                self._detail(blob_line(event))

    def _notice(self, event: Notice) -> None:
        match event.level:
            case Level.DETAIL:
                self._detail(event.message)
            case Level.WARNING:
                self._print("[yellow]![/]", event.message)
            case Level.NOTE:
                self._print("[blue]·[/]", event.message)

    def _detail(self, text: str) -> None:
        if self._verbose:
            self._print(" ", text)

    def _drop(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._progress.remove_task(task)

    def _print(self, mark: str, text: str) -> None:
        line = Text.from_markup(mark)
        line.append(" ")
        line.append(printable(text, most=10_000))
        self._console.print(line)

    def _mark(self, outcome: Outcome) -> str:
        match outcome:
            case Outcome.FAILED | Outcome.CANCELLED:
                return "[red]✗[/]"
            case Outcome.SKIPPED | Outcome.MOUNTED:
                return "[dim]-[/]"
            case Outcome.DONE | Outcome.RESUMED:
                return "[green]✓[/]"
