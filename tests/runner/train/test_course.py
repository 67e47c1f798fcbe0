"""Where a run stands among its rows, with steps of one size and with steps that have grown."""

import pytest
from llm_runner.train.course import Course, grow_batch


def course(**changes: int | bool | None) -> Course:
    given = {"rows": 10, "rows_per_step": 4, "total_steps": 9, "epochs": 3, "steps_per_round": 3}
    return Course(**{**given, "rounds_by_epoch": True, **changes})  # type: ignore[arg-type]


def walk(course: Course, sizes: list[int]) -> list[tuple[int, int]]:
    """Where steps of these sizes lead."""
    places = [(0, 0)]
    for size in sizes:
        places.append(course.advance(*places[-1], size))
    return places


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    assert walk(course(), [4] * 7) == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4), (1, 8), (2, 0), (2, 4)]
    assert walk(course(rows=8), [4] * 3) == [(0, 0), (0, 4), (1, 0), (1, 4)]


def test_with_steps_of_one_size_every_count_is_the_step_itself() -> None:
    way = course()
    for step, (epoch, row) in enumerate(walk(way, [4] * 9)):
        assert way.scheduled_step(step, epoch, row) == step
        assert way.rounds(step, epoch, row) == step // 3
        assert way.steps_left(step, epoch, row, 4) == 9 - step


def test_steps_that_have_grown_leave_fewer_and_the_schedule_still_ends_with_the_rows() -> None:
    way = course()
    assert way.steps_left(1, 0, 4, 8) == 1 + 2 * 2
    places = walk(way, [4, 8, 8, 8, 8, 8])
    assert places[-1] == (3, 0)
    assert way.scheduled_step(6, *places[-1]) == 9
    assert [way.rounds(step, *place) for step, place in enumerate(places)] == [0, 0, 1, 1, 2, 2, 3]
    assert way.steps_left(6, *places[-1], 8) == 0


def test_where_steps_are_counted_they_are_taken_whatever_rows_they_have() -> None:
    way = course(epochs=None, rounds_by_epoch=False)
    assert way.steps_left(4, 7, 0, 8) == 5
    assert way.scheduled_step(4, 7, 0) == 4
    assert way.rounds(4, 7, 0) == 1


@pytest.mark.proves("trainer.increase_batch_size_on_plateau_rate")
@pytest.mark.parametrize(
    ("rows", "rate", "times", "most", "expected"),
    [
        (4, 2.0, 0, 100, 4),
        (4, 2.0, 3, 100, 32),
        (1, 1.5, 1, 100, 2),
        (1, 1.5, 2, 100, 3),
        (4, 2.0, 9, 100, 100),
        (8, 2.0, 1, 5, 8),
    ],
)
def test_a_batch_grows_by_its_rate_up_to_the_most(rows: int, rate: float, times: int, most: int, expected: int) -> None:
    assert grow_batch(rows, rate, times, most) == expected
