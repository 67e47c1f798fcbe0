"""Reports for people at a terminal: a line for each phase and finding, a progress bar while the model is trained."""

from llm_api.report import Outcome, Progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from llm_runner.report.quantity import describe_duration, describe_number, describe_size
from llm_runner.report.sink import Evaluated, Level, Sink

PHASES_WITH_BAR = {"Training", "Evaluating"}
REFRESHES_PER_SECOND = 4
"""A bar that is drawn more often takes time from the model."""


class Terminal(Sink):
    """Draws on ``console``; failures are left to the program's end, which writes them to standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None

    def phase(self, progress: Progress) -> None:
        if self._bar is not None and progress.phase in PHASES_WITH_BAR:
            self._draw(self._bar, progress)
            return
        self._stop_bar()
        self._print(Text(progress.phase, style="bold cyan"))

    def step(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = _build_bar(self._console)
            self._draw(self._bar, progress)
            self._bar.start()
        self._draw(self._bar, progress)

    def evaluated(self, evaluated: Evaluated) -> None:
        parts = [
            f"  step {evaluated.step}: hold-out loss {evaluated.loss:.4f}",
            f"perplexity {evaluated.perplexity:.4g}",
            f"next-token accuracy {evaluated.next_token_accuracy:.1%}",
        ]
        if evaluated.reward_accuracy is not None:
            parts.append(f"reward accuracy {evaluated.reward_accuracy:.1%}, margin {evaluated.reward_margin:.4g}")
        self._print(Text(", ".join(parts)))

    def message(self, level: Level, text: str) -> None:
        line = Text("  ")
        if level == "warning":
            line.append("warning: ", style="yellow")
        self._print(line.append(text))

    def outcome(self, outcome: Outcome) -> None:
        self._stop_bar()
        if outcome.reason == "Succeeded":
            self._print(Text().append(outcome.reason, style="bold green").append(f"  {outcome.message}".rstrip()))
            for name, value in _summary(outcome):
                self._print(Text(f"  {name:<28} {value}"))

    def close(self) -> None:
        self._stop_bar()

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _draw(self, bar: Bar, progress: Progress) -> None:
        bar.update(
            bar.tasks[0].id,
            description=progress.phase,
            completed=progress.step,
            total=progress.of if progress.of > 0 else None,
            figures=_figures(progress),
        )

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _build_bar(console: Console) -> Bar:
    bar = Bar(
        TextColumn("[bold cyan]{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}"),
        console=console,
        expand=True,
        refresh_per_second=REFRESHES_PER_SECOND,
    )
    bar.add_task("", figures="")
    return bar


def _figures(progress: Progress) -> str:
    done = f"step {progress.step}" if progress.of == 0 else f"{progress.step}/{progress.of}  {progress.percent}%"
    parts = [done] if progress.epoch == 0 and progress.phase != "Training" else [done, f"epoch {progress.epoch:.2f}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    if progress.eta_seconds is not None:
        parts.append(f"ETA {describe_duration(progress.eta_seconds)}")
    return "  ".join(parts)


def _summary(outcome: Outcome) -> list[tuple[str, str]]:
    rows = [(name, describe_number(value)) for name, value in outcome.metrics.items()]
    if outcome.artifact_uri is not None:
        rows.append(("artifact", outcome.artifact_uri))
    if outcome.artifact_size_bytes is not None:
        rows.append(("artifact size", describe_size(outcome.artifact_size_bytes)))
    return rows
