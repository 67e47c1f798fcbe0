"""What limits would cut, counted for all rows at once, is what they do cut row by row."""

import numpy as np
import pytest
from llm_runner.data.lengths import Cut, RowLengths, measure_cut, plan_limits_to_try
from llm_runner.data.tokens import LengthLimits

DRAWN = np.random.default_rng(4)
LENGTHS = RowLengths(DRAWN.integers(1, 60, 300), DRAWN.integers(1, 30, 300))


def cut_row_by_row(limits: LengthLimits) -> Cut:
    prompts = targets = lost = kept = 0
    for prompt, target in zip(LENGTHS.prompts.tolist(), LENGTHS.targets.tolist(), strict=True):
        cut_prompt, cut_target = map(len, limits.fit(list(range(prompt)), list(range(target))))
        if cut_target == 0:
            lost += 1
            continue
        prompts += cut_prompt < prompt
        targets += cut_target < target
        kept += cut_prompt + cut_target
    return Cut(limits, prompts, targets, lost, kept / int(LENGTHS.whole.sum()))


@pytest.mark.parametrize(
    "limits",
    [
        LengthLimits(whole=1),
        LengthLimits(whole=2),
        LengthLimits(whole=20),
        LengthLimits(whole=50),
        LengthLimits(whole=1000),
        LengthLimits(whole=1000, prompt=16),
        LengthLimits(whole=1000, target=8),
        LengthLimits(whole=24, prompt=16, target=8),
        LengthLimits(whole=3, prompt=1),
    ],
    ids=str,
)
def test_a_limit_cuts_what_it_cuts_row_by_row(limits: LengthLimits) -> None:
    assert measure_cut(LENGTHS, limits) == cut_row_by_row(limits)


def test_limits_double_until_nothing_is_cut_and_written_ones_are_among_them() -> None:
    assert plan_limits_to_try(100, [None]) == [32, 64, 128]
    assert plan_limits_to_try(100, [96, 8192]) == [32, 64, 96, 128]
    assert plan_limits_to_try(3, [4]) == [4, 32]
