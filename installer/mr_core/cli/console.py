"""The terminal sink: live bars on stderr while something runs, one line for each finished phase.

The only user of rich.
"""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from mr_core.cli.lines import VERBS, phase_line
from mr_core.cli.units import show_bytes, show_seconds
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


class _Amount(ProgressColumn):
    """Position, total, speed and remaining time, in the task's unit."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(show_seconds(task.elapsed or 0), style="dim")
        done, total = int(task.completed), int(task.total)
        if task.fields.get("unit") is not Unit.BYTES:
            return Text(f"{done}/{total}", style="dim")
        speed = f"  {show_bytes(int(task.speed))}/s" if task.speed else ""
        left = f"  {show_seconds(task.time_remaining)} left" if task.time_remaining else ""
        return Text(f"{show_bytes(done)} of {show_bytes(total)}{speed}{left}", style="dim")


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
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Amount(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, PhaseStarted] = {}
        self._progress.start()

    def close(self) -> None:
        """Remove the live part and give the cursor back."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case PhaseStarted():
                self._started[event.phase] = event
                name = f"{event.phase} {event.subject}".strip()
                self._tasks[event.phase] = self._progress.add_task(name, total=event.total, unit=event.unit)
            case PhaseProgress():
                if event.phase in self._tasks:
                    self._progress.update(self._tasks[event.phase], completed=event.done)
            case PhaseFinished():
                self._drop(event.phase)
                self._print(self._mark(event.outcome), phase_line(event, self._started.pop(event.phase, None)))
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
                self._detail(f"{name} {show_bytes(event.total)} {VERBS[event.outcome] or 'fetched'}")

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
        line.append(text)
        self._console.print(line)

    def _mark(self, outcome: Outcome) -> str:
        match outcome:
            case Outcome.FAILED:
                return "[red]✗[/]"
            case Outcome.SKIPPED:
                return "[dim]-[/]"
            case Outcome.DONE | Outcome.RESUMED:
                return "[green]✓[/]"
