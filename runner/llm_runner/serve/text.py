"""An answer's tokens as text while they come: whole characters only, and nothing of what ends it."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StopScanner:
    """Looks for texts that end an answer, also where they come in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.has_stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far is surely part of the answer."""
        if not self._stops or self.has_stopped:
            return "" if self.has_stopped else text
        text = self._held + text
        found = min((place for place in (text.find(stop) for stop in self._stops) if place >= 0), default=None)
        if found is not None:
            self.has_stopped, self._held = True, ""
            return text[:found]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class AnswerText:
    """Gives the text of one answer token by token."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._scanner = StopScanner(stops)

    @property
    def has_stopped(self) -> bool:
        """Whether one of the texts that end it has come."""
        return self._scanner.has_stopped

    def feed(self, token_id: int) -> str:
        piece = self._stream.step(self._tokenizer, token_id)
        return self._scanner.feed("" if piece is None else piece)

    def flush(self) -> str:
        return self._scanner.flush()
