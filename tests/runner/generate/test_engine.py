"""The engine's scheduling, with models that have no weights: who is served when, and how answers end."""

import threading
from collections.abc import Sequence

import pytest
import torch
from llm_runner.generate.engine_request import (
    End,
    EndReason,
    Overloaded,
    PromptTooLong,
    Request,
    Sampling,
    Token,
)

from tests.support.engines import VOCABULARY, Collected, ScriptedForward, ask, running_engine

EOS = 1


def counting(tokens: Sequence[int]) -> torch.Tensor:
    """The token after n is n + 1."""
    scores = torch.zeros(VOCABULARY)
    scores[(tokens[-1] + 1) % VOCABULARY] = 9.0
    return scores


def test_an_answer_ends_at_its_greatest_length() -> None:
    with running_engine(ScriptedForward(counting)) as engine:
        [(tokens, end)] = ask(engine, Request([10, 20], max_new_tokens=4))
    assert (tokens, end.reason) == ([21, 22, 23, 24], EndReason.LENGTH)


def test_an_answer_ends_before_any_of_its_stop_tokens() -> None:
    with running_engine(ScriptedForward(counting)) as engine:
        [(tokens, end)] = ask(engine, Request([20], max_new_tokens=9, stop_ids=frozenset({99, 23})))
    assert (tokens, end.reason) == ([21, 22], EndReason.STOP)


def test_an_answer_ends_where_the_context_does() -> None:
    with running_engine(ScriptedForward(counting), context_tokens=6) as engine:
        [(tokens, end)] = ask(engine, Request([20, 20, 20], max_new_tokens=100))
    assert (tokens, end.reason) == ([21, 22, 23], EndReason.LENGTH)


def test_an_answer_ends_when_its_time_is_over() -> None:
    with running_engine(ScriptedForward(counting, block_count=1000), context_tokens=16000) as engine:
        [(tokens, end)] = ask(engine, Request([20], max_new_tokens=15000, max_seconds=0.2))
    assert end.reason is EndReason.TIME
    assert 0 < len(tokens) < 15000


def test_a_prompt_without_room_for_an_answer_is_refused_with_both_lengths() -> None:
    with running_engine(ScriptedForward(), context_tokens=8) as engine, pytest.raises(PromptTooLong) as raised:
        engine.submit(Request([2] * 8, max_new_tokens=1), Collected().deliver)
    assert (raised.value.tokens, raised.value.limit) == (8, 8)


def test_sequences_join_and_leave_between_steps() -> None:
    forward = ScriptedForward(counting)
    with running_engine(forward) as engine:
        long, short = Collected(), Collected()
        engine.submit(Request([10], max_new_tokens=200), long.deliver)
        long.next()
        engine.submit(Request([50], max_new_tokens=2), short.deliver)
        assert [token.id for token in short.all()[0]] == [51, 52]
        assert [token.id for token in long.all()[0]] == [place % VOCABULARY for place in range(12, 211)]
    together = [len(step) for step in forward.steps]
    assert together.count(2) == 2
    assert together[0] == together[-1] == 1


def test_every_running_sequence_gets_a_token_in_each_step_while_a_long_prompt_is_read_in_parts() -> None:
    forward = ScriptedForward(counting, block_count=1000)
    with running_engine(forward, step_tokens=16, context_tokens=16_000) as engine:
        talking, reading = Collected(), Collected()
        number = engine.submit(Request([10], max_new_tokens=10_000), talking.deliver)
        talking.next()
        engine.submit(Request([5] * 100, max_new_tokens=1), reading.deliver)
        assert [token.id for token in reading.all()[0]] == [6]
        engine.cancel(number)
    mixed = [[len(piece.token_ids) for piece in step] for step in forward.steps if len(step) > 1]
    assert mixed == [[1, 15]] * 6 + [[1, 10]]


def test_a_long_prompt_is_read_in_parts_where_it_is_alone_too() -> None:
    forward = ScriptedForward(counting)
    with running_engine(forward, step_tokens=16) as engine:
        assert ask(engine, Request([5] * 100, max_new_tokens=1))[0][0] == [6]
    assert [[len(piece.token_ids) for piece in step] for step in forward.steps] == [[16]] * 6 + [[4]]


def test_a_cancelled_request_gives_its_place_and_its_blocks_back() -> None:
    forward = ScriptedForward(counting)
    with running_engine(forward, running=1) as engine:
        left, waiting = Collected(), Collected()
        number = engine.submit(Request([10], max_new_tokens=10_000), left.deliver)
        engine.submit(Request([50], max_new_tokens=1), waiting.deliver)
        left.next()
        engine.cancel(number)
        assert left.all()[1] == End(EndReason.CANCELLED)
        assert [token.id for token in waiting.all()[0]] == [51]
        assert engine.load().used_blocks == 0


def test_a_request_is_cancelled_while_it_waits() -> None:
    with running_engine(ScriptedForward(counting), running=1) as engine:
        first, second = Collected(), Collected()
        number = engine.submit(Request([10], max_new_tokens=200), first.deliver)
        waiting = engine.submit(Request([10], max_new_tokens=200), second.deliver)
        engine.cancel(waiting)
        assert second.all() == ([], End(EndReason.CANCELLED))
        engine.cancel(number)


def test_cancelling_what_is_over_does_nothing() -> None:
    with running_engine(ScriptedForward(counting)) as engine:
        one = Collected()
        number = engine.submit(Request([10], max_new_tokens=1), one.deliver)
        one.all()
        engine.cancel(number)
        assert ask(engine, Request([20], max_new_tokens=1))[0][0] == [21]


def test_more_than_may_wait_are_refused_and_none_of_the_others_is_lost() -> None:
    gate = threading.Event()
    with running_engine(ScriptedForward(counting, before_step=gate.wait), running=2, waiting=3) as engine:
        collected = [Collected() for _ in range(5)]
        for one in collected:
            engine.submit(Request([10], max_new_tokens=2), one.deliver)
        with pytest.raises(Overloaded):
            engine.submit(Request([10], max_new_tokens=2), Collected().deliver)
        gate.set()
        assert [len(one.all()[0]) for one in collected] == [2] * 5
        engine.submit(Request([10], max_new_tokens=2), (again := Collected()).deliver)
        assert len(again.all()[0]) == 2


def test_a_shared_prefix_is_computed_once_also_by_requests_that_come_at_once() -> None:
    forward = ScriptedForward(counting)
    prefix = list(range(2, 66))
    gate = threading.Event()
    forward.before_step = gate.wait
    with running_engine(forward) as engine:
        collected = [Collected() for _ in range(4)]
        for place, one in enumerate(collected):
            engine.submit(Request([*prefix, 100 + place], max_new_tokens=1), one.deliver)
        gate.set()
        ends = [one.all()[1] for one in collected]
    assert [end.cached_tokens for end in ends] == [0, 64, 64, 64]
    assert sum(len(piece.token_ids) for step in forward.steps for piece in step) == 64 + 4


def test_a_prefix_stays_known_after_its_request_is_over_until_room_is_needed() -> None:
    forward = ScriptedForward(counting, block_count=6)
    with running_engine(forward) as engine:
        first, again = [[*range(2, 35)], [*range(2, 35)]]
        assert ask(engine, Request(first, max_new_tokens=1))[0][1].cached_tokens == 0
        assert ask(engine, Request(again, max_new_tokens=1))[0][1].cached_tokens == 32
        ask(engine, Request([7] * 90, max_new_tokens=1))
        assert ask(engine, Request(again, max_new_tokens=1))[0][1].cached_tokens == 0


def test_what_one_adapter_computed_is_not_shared_with_another() -> None:
    forward = ScriptedForward(counting)
    prompt = [*range(2, 35)]
    with running_engine(forward) as engine:
        ask(engine, Request(prompt, max_new_tokens=1, adapter="a"))
        [(_, end)] = ask(engine, Request(prompt, max_new_tokens=1, adapter="b"))
    assert end.cached_tokens == 0


def test_without_room_for_all_the_youngest_is_put_back_and_every_answer_is_still_whole() -> None:
    forward = ScriptedForward(counting, block_count=8)
    with running_engine(forward) as engine:
        answers = ask(engine, *(Request([10 * place], max_new_tokens=60) for place in range(1, 5)))
        assert engine.load().preemptions > 0
        assert engine.load().used_blocks == 0
    for place, (tokens, _) in enumerate(answers, start=1):
        assert tokens == [10 * place + step for step in range(1, 61)]


def test_a_sequence_that_was_put_back_goes_on_with_its_own_random_numbers() -> None:
    requests = [Request([place], max_new_tokens=60, sampling=Sampling(1.0, seed=place)) for place in range(4)]
    with running_engine(ScriptedForward(block_count=64)) as engine:
        expected = ask(engine, *requests)
    with running_engine(ScriptedForward(block_count=8)) as engine:
        found = ask(engine, *requests)
        assert engine.load().preemptions > 0
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]


def test_a_failing_step_ends_every_request_with_the_error_and_the_engine_with_it() -> None:
    def fail() -> None:
        raise RuntimeError("the device is gone")

    with running_engine(ScriptedForward(before_step=fail)) as engine:
        [(tokens, end)] = ask(engine, Request([10], max_new_tokens=1))
        assert (tokens, end.reason, str(end.error)) == ([], EndReason.FAILED, "the device is gone")
        assert str(engine.failure) == "the device is gone"
        with pytest.raises(Overloaded):
            engine.submit(Request([10], max_new_tokens=1), Collected().deliver)


def test_logits_that_are_no_numbers_fail_their_request_only_and_their_blocks_are_overwritten() -> None:
    def score(tokens: Sequence[int]) -> torch.Tensor:
        return torch.full((VOCABULARY,), torch.nan) if tokens[0] == 13 else counting(tokens)

    forward = ScriptedForward(score)
    with running_engine(forward) as engine:
        broken, whole = ask(engine, Request([13] * 20, max_new_tokens=2), Request([20], max_new_tokens=2))
        assert broken[1].reason is EndReason.FAILED
        assert whole[0] == [21, 22]
        assert len(forward.broken_blocks) == 2
        assert ask(engine, Request([13] * 20, max_new_tokens=2))[0][1].cached_tokens == 0


def test_other_work_that_needs_the_model_is_done_between_steps_on_the_engines_thread() -> None:
    with running_engine(ScriptedForward(counting)) as engine:
        one = Collected()
        engine.submit(Request([10], max_new_tokens=50), one.deliver)
        assert engine.call(lambda: threading.current_thread().name).result(timeout=60) == "engine"
        with pytest.raises(ValueError, match="no"):
            engine.call(lambda: [].index("no")).result(timeout=60)  # type: ignore[arg-type]
        assert len(one.all()[0]) == 50


def test_closing_ends_what_is_open() -> None:
    with running_engine(ScriptedForward(counting, block_count=2000), context_tokens=30_000) as engine:
        one = Collected()
        engine.submit(Request([10], max_new_tokens=29_000), one.deliver)
        assert isinstance(one.next(), Token)
    assert one.all()[1].reason is EndReason.CANCELLED
