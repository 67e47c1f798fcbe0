"""Prompts and answers as token ids, cut to length and kept on disk, so that the data may be larger than memory.

Each row is the prompt's ids followed by its target: the answer's ids and one end-of-sequence. The two are tokenized
apart, so that the boundary between them lies where generation will start. Renders no prompts and knows no config.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from llm_runner.data.together import ALONE, Together
from llm_runner.errors import ConfigInvalid

Number = TypeVar("Number", np.int32, np.int64)

ID_BYTES = 4
OFFSETS, PROMPT_LENGTHS = ".offsets", ".prompts"
MIN_PROMPT_TOKENS = 2
"""The last that a long answer leaves of a prompt: its first token and its last."""


@dataclass(frozen=True)
class Example:
    """One row."""

    token_ids: npt.NDArray[np.int32]
    """Prompt and target."""
    prompt_length: int
    """At least 1; the target is ``token_ids[prompt_length:]``, never empty."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class IdFile:
    """Token ids in a file, read piece by piece: of a map, all that was ever read counts as this process's memory."""

    path: Path

    def __getitem__(self, span: slice) -> npt.NDArray[np.int32]:
        return np.fromfile(self.path, np.int32, span.stop - span.start, offset=span.start * ID_BYTES)


@dataclass(frozen=True)
class TokenizedRows:
    """The rows of one split; their ids stay on disk and are read as they are asked for.

    Pickled, rows on disk are the path to them: another process of this machine reads and maps the same files.
    """

    token_ids: npt.NDArray[np.int32] | IdFile
    """All rows' ids end to end."""
    offsets: npt.NDArray[np.int64]
    """Where each row begins, and at last where the last one ends."""
    prompt_lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return self.prompt_lengths.size

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.token_ids, IdFile):
            return load_rows, (self.token_ids.path,)
        return TokenizedRows, (self.token_ids, self.offsets, self.prompt_lengths)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, prompt and target."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where there is none."""
        return int(self.lengths.max(initial=0))

    @property
    def target_lengths(self) -> npt.NDArray[np.int64]:
        return self.lengths - self.prompt_lengths

    def length(self, row: int) -> int:
        return int(self.offsets[row + 1] - self.offsets[row])

    def example(self, row: int) -> Example:
        """A copy: it outlives the file and may be written to."""
        token_ids = np.array(self.token_ids[self.offsets[row] : self.offsets[row + 1]])
        return Example(token_ids, int(self.prompt_lengths[row]))


def load_rows(path: Path) -> TokenizedRows:
    """What a TokenWriter wrote to ``path`` and beside it."""
    offsets = _map(path.with_suffix(OFFSETS), np.int64)
    prompt_lengths = _map(path.with_suffix(PROMPT_LENGTHS), np.int32)
    return TokenizedRows(IdFile(path), offsets, prompt_lengths)


def join_rows(path: Path, together: Together) -> TokenizedRows:
    """The rows of all machines, each of which has written its own to ``path``, in the order of the machines."""
    offsets_path = path.with_suffix(OFFSETS)
    before = sum(together.gather(path.stat().st_size // ID_BYTES)[: together.number])
    offsets = np.fromfile(offsets_path, np.int64) + before
    # Where one machine's rows end, the next one's begin.
    offsets[min(together.number, 1) :].tofile(offsets_path)
    for part in (path, offsets_path, path.with_suffix(PROMPT_LENGTHS)):
        together.join_file(part)
    return load_rows(path)


def _map(path: Path, number: type[Number]) -> npt.NDArray[Number]:
    """An empty file can't be mapped."""
    return np.memmap(path, number, "r") if path.stat().st_size > 0 else np.empty(0, number)


class TokenWriter:
    """Writes rows to the file at ``path`` one after the other, where they begin and how long their prompts are beside
    it, and gives them back as TokenizedRows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._offsets = array("q", [0])
        self._prompt_lengths = array("i")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> None:
        for ids in (prompt_ids, target_ids):
            self._file.write(np.asarray(ids, dtype=np.int32).tobytes())
        self._offsets.append(self._offsets[-1] + len(prompt_ids) + len(target_ids))
        self._prompt_lengths.append(len(prompt_ids))

    def close(self, together: Together = ALONE) -> TokenizedRows:
        """The rows written, here and by the other machines; the file must stay as long as they are used."""
        self._file.close()
        self._path.with_suffix(OFFSETS).write_bytes(self._offsets)
        self._path.with_suffix(PROMPT_LENGTHS).write_bytes(self._prompt_lengths)
        return join_rows(self._path, together)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and the ids that it wants around a text."""

    tokenizer: PreTrainedTokenizerBase
    opening_ids: tuple[int, ...]
    """What the tokenizer puts before every text: its BOS, or nothing."""
    end_id: int

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of each prompt, ready to be continued: opened once, also where the text opens itself, and not ended.

        An empty prompt of a tokenizer without BOS becomes one end-of-sequence, as there must be a token to go on from.
        """
        opening = list(self.opening_ids)
        rows = (
            ids if ids[: len(opening)] == opening else opening + ids
            for ids in _token_ids(self.tokenizer, prompts, special=False)
        )
        return [ids if ids else [self.end_id] for ids in rows]

    def encode_targets(self, answers: Sequence[str]) -> list[list[int]]:
        """Ids of each answer and one end-of-sequence, also where the text ends itself."""
        rows = _token_ids(self.tokenizer, answers, special=False)
        return [ids if ids and ids[-1] == self.end_id else [*ids, self.end_id] for ids in rows]


def build_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Finds out what the tokenizer puts before a text. Raises ConfigInvalid where it has no end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise ConfigInvalid(
            f"base_model: the tokenizer of {tokenizer.name_or_path or 'the model'} has no end-of-sequence token, "
            "so a tuned model could never stop; set eos_token in its tokenizer_config.json"
        )
    plain, full = (_token_ids(tokenizer, ["a"], special=special)[0] for special in (False, True))
    starts = [start for start in range(len(full)) if full[start : start + len(plain)] == plain]
    return Encoder(tokenizer, tuple(full[: starts[0]]) if starts else (), int(tokenizer.eos_token_id))


@dataclass(frozen=True)
class LengthLimits:
    """The most tokens that a row may have."""

    whole: int
    """Prompt and target."""
    prompt: int | None = None
    target: int | None = None
    """The answer and its end-of-sequence."""

    def fit(self, prompt_ids: list[int], target_ids: list[int]) -> tuple[list[int], list[int]]:
        """Cuts a row to length: the prompt first, out of its middle; of the answer only what can't fit, from its end.

        A cut answer has no end-of-sequence, as it does not end there. The target comes back empty where there is no
        room.
        """
        prompt = _cut_middle(prompt_ids, self.whole if self.prompt is None else self.prompt)
        room = max(0, self.whole - min(len(prompt), MIN_PROMPT_TOKENS))
        target = target_ids[: room if self.target is None else min(room, self.target)]
        return _cut_middle(prompt, self.whole - len(target)), target


def encode_rows(
    encoder: Encoder, limits: LengthLimits, prompts: Sequence[str], answers: Sequence[str]
) -> Iterator[tuple[list[int], list[int], bool]]:
    """Prompt ids, target ids and whether anything was cut, of each row; targets may be empty."""
    for prompt, (target,), cut in encode_alternatives(encoder, limits, prompts, [answers]):
        yield prompt, target, cut


def encode_alternatives(
    encoder: Encoder, limits: LengthLimits, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> Iterator[tuple[list[int], list[list[int]], bool]]:
    """The same for rows with several answers, a list for each of them: all of a row's follow the same prompt, cut for
    the longest.
    """
    targets = [encoder.encode_targets(texts) for texts in answers]
    for prompt_ids, *target_ids in zip(encoder.encode_prompts(prompts), *targets, strict=True):
        fitted = [limits.fit(prompt_ids, ids) for ids in target_ids]
        prompt = min((prompt for prompt, _ in fitted), key=len)
        kept = [target for _, target in fitted]
        cut = any(len(target) < len(ids) for target, ids in zip(kept, target_ids, strict=True))
        yield prompt, kept, cut or len(prompt) < len(prompt_ids)


def _cut_middle(ids: list[int], room: int) -> list[int]:
    if len(ids) <= room:
        return ids
    tail = room // 2
    return ids[: room - tail] + ids[len(ids) - tail :]


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    encoding: Any = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    rows: list[list[int]] = encoding["input_ids"]
    return rows
