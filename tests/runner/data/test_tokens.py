"""Tokens: an exact boundary, one BOS, one end, and cuts that keep the answer and the prompt's ends."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from llm_runner.data.tokens import Encoder, LengthLimits, TokenWriter, build_encoder, encode_rows
from llm_runner.errors import ConfigInvalid

from tests.support.byte_tokenizer import BOS, EOS, byte_tokenizer


def encode(encoder: Encoder, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    ((prompt_ids, target_ids, _),) = encode_rows(encoder, LengthLimits(whole=10**6), [prompt], [answer])
    return prompt_ids, target_ids


@pytest.mark.parametrize(
    ("opening", "ending", "expected"),
    [("", "", ()), ("<s>", "", (BOS,)), ("<s>", "</s>", (BOS,)), ("", "</s>", ())],
)
def test_an_encoder_finds_out_what_its_tokenizer_puts_before_a_text(
    opening: str, ending: str, expected: tuple[int, ...]
) -> None:
    assert build_encoder(byte_tokenizer(opening, ending)).opening_ids == expected


@pytest.mark.parametrize(("opening", "ending"), [("", ""), ("<s>", ""), ("<s>", "</s>")])
def test_batches_of_rows_give_the_same_ids_as_each_part_by_itself(opening: str, ending: str) -> None:
    tokenizer = byte_tokenizer(opening, ending)
    prompts = [f"prompt {number} ä" for number in range(30)]
    answers = [f"answer {number * 7}" for number in range(30)]
    rows = list(encode_rows(build_encoder(tokenizer), LengthLimits(whole=1000), prompts, answers))
    for prompt, answer, (prompt_ids, target_ids, cut) in zip(prompts, answers, rows, strict=True):
        plain = tokenizer.encode(prompt, add_special_tokens=False)
        assert prompt_ids == ([BOS, *plain] if opening else plain)
        assert target_ids == [*tokenizer.encode(answer, add_special_tokens=False), EOS]
        assert not cut


def test_a_template_that_writes_the_bos_itself_gets_no_second_one() -> None:
    for opening in ("", "<s>"):
        prompt_ids, _ = encode(build_encoder(byte_tokenizer(opening)), "<s>hello", "yes")
        assert prompt_ids.count(BOS) == 1
        assert prompt_ids[0] == BOS


def test_an_answer_that_ends_itself_gets_no_second_end() -> None:
    _, target_ids = encode(build_encoder(byte_tokenizer()), "hello", "yes</s>")
    assert target_ids.count(EOS) == 1
    assert target_ids[-1] == EOS


def test_an_empty_answer_is_one_end_and_an_empty_prompt_one_token() -> None:
    assert encode(build_encoder(byte_tokenizer()), "", "") == ([EOS], [EOS])
    assert encode(build_encoder(byte_tokenizer("<s>")), "", "") == ([BOS], [EOS])


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="no end-of-sequence token"):
        build_encoder(byte_tokenizer(eos=False))


PROMPT, TARGET = list(range(100, 120)), [1, 2, 3, EOS]


@pytest.mark.parametrize(
    ("limits", "prompt", "target"),
    [
        (LengthLimits(whole=24), PROMPT, TARGET),
        (LengthLimits(whole=10), [100, 101, 102, 117, 118, 119], TARGET),
        (LengthLimits(whole=9), [100, 101, 102, 118, 119], TARGET),
        (LengthLimits(whole=5), [100, 119], [1, 2, 3]),
        (LengthLimits(whole=2), [100, 119], []),
        (LengthLimits(whole=24, prompt=3), [100, 101, 119], TARGET),
        (LengthLimits(whole=24, prompt=1), [100], TARGET),
        (LengthLimits(whole=2, prompt=1), [100], [1]),
        (LengthLimits(whole=24, target=3), PROMPT, [1, 2, 3]),
        (LengthLimits(whole=24, target=4), PROMPT, TARGET),
        (LengthLimits(whole=6, prompt=10, target=2), [100, 101, 118, 119], [1, 2]),
    ],
)
def test_rows_are_cut_in_the_prompts_middle_first(limits: LengthLimits, prompt: list[int], target: list[int]) -> None:
    assert limits.fit(PROMPT, TARGET) == (prompt, target)


def test_a_cut_row_says_so() -> None:
    encoder = build_encoder(byte_tokenizer())
    cuts = [cut for _, _, cut in encode_rows(encoder, LengthLimits(whole=5), ["ab", "abcd"], ["xy", "xy"])]
    assert cuts == [False, True]


def test_rows_written_come_back_as_they_were(tmp_path: Path) -> None:
    written = [([5, 6], [7]), ([8], [9, 10, 11])]
    with TokenWriter(tmp_path / "ids") as writer:
        for prompt_ids, target_ids in written:
            writer.append(prompt_ids, target_ids)
        rows = writer.close()
    assert len(rows) == 2
    assert rows.lengths.tolist() == [3, 4] == [rows.length(0), rows.length(1)]
    assert rows.target_lengths.tolist() == [1, 3]
    for number, (prompt_ids, target_ids) in enumerate(written):
        example = rows.example(number)
        assert example.token_ids.tolist() == prompt_ids + target_ids
        assert example.prompt_length == len(prompt_ids)
        assert example.token_ids.dtype == np.int32
        assert type(example.token_ids) is np.ndarray
        assert example.token_ids.flags.writeable


def test_no_rows_are_an_empty_set(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "ids") as writer:
        rows = writer.close()
    assert len(rows) == 0
    assert rows.lengths.size == 0


def test_rows_that_another_process_is_told_of_are_the_same_files(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "train.tokens") as writer:
        for number in range(1000):
            writer.append([number] * 50, [number] * 50)
        rows = writer.close()
    told = pickle.dumps(rows)
    assert len(told) < 1000
    other = pickle.loads(told)
    assert (len(other), other.longest, other.lengths.tolist()) == (1000, 100, [100] * 1000)
    for number in (0, 500, 999):
        example = other.example(number)
        assert (example.token_ids.tolist(), example.prompt_length) == ([number] * 100, 50)
