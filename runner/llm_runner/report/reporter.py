"""What a run says while it works, told to every destination at once. Formats, sends and stores nothing itself."""

from collections.abc import Sequence

from llm_api.report import Outcome, Progress

from llm_runner.report.sink import Evaluated, HoldOutFigures, Level, Sink


class Reporter:
    """One voice of a run, many listeners. Not for use from several threads."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)
        self._said: set[str] = set()
        self.latest = Progress(phase="Preparing")
        """The newest report; tells where a run stood when it failed."""
        self._told_phase: str | None = None

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def phase(self, name: str) -> None:
        """A phase began: Preparing, Training, Evaluating or Storing. One that goes on is not told again."""
        if name == self._told_phase:
            return
        self._told_phase = name
        self.latest = self.latest.model_copy(update={"phase": name})
        for sink in self._sinks:
            sink.phase(self.latest)

    def step(self, progress: Progress) -> None:
        """An optimizer step is done. Cheap enough to call for each: destinations choose what they pass on."""
        known = progress.eval_loss is not None
        self.latest = progress if known else progress.model_copy(update={"eval_loss": self.latest.eval_loss})
        for sink in self._sinks:
            sink.step(self.latest)

    def evaluated(self, step: int, figures: HoldOutFigures) -> None:
        """The hold-out was scored after ``step`` optimizer steps."""
        self.latest = self.latest.model_copy(update={"eval_loss": figures.loss})
        evaluated = Evaluated(
            step,
            figures.loss,
            figures.perplexity,
            figures.next_token_accuracy,
            figures.reward_accuracy,
            figures.reward_margin,
        )
        for sink in self._sinks:
            sink.evaluated(evaluated)

    def info(self, text: str) -> None:
        self._say("info", text)

    def warning(self, text: str) -> None:
        """Something that a user should know; the same words are passed on once only."""
        if text not in self._said:
            self._said.add(text)
            self._say("warning", text)

    def outcome(self, outcome: Outcome) -> None:
        """How the run ended."""
        for sink in self._sinks:
            sink.outcome(outcome)

    def close(self) -> None:
        """Writes out what destinations hold back."""
        for sink in self._sinks:
            sink.close()

    def _say(self, level: Level, text: str) -> None:
        for sink in self._sinks:
            sink.message(level, text)
