"""What the reference model makes of a run's pairs: worked out once, before the first step, and kept with checkpoints.

The reference is the model as it is then. No pass over a second model is needed later, and a run that goes on elsewhere
has the same numbers.
"""

from collections.abc import Callable, Sequence

from llm_runner.data.pairs import PairRows
from llm_runner.errors import Stopped
from llm_runner.train.batch import Rows
from llm_runner.train.course import epoch_order
from llm_runner.train.evaluate import StopAsked
from llm_runner.train.loop import Loop
from llm_runner.train.pairforward import PairForward, score_reference


def work_out_reference(loop: Loop, tell: Callable[[str], None]) -> None:
    """Does nothing for runs without pairs or without a reference. Raises Stopped where the run is asked to stop."""
    forward, tables = loop.learner.forward, find_tables(loop.train_rows, loop.hold_out)
    if not isinstance(forward, PairForward) or not tables:
        return
    places = [_places_in_training(loop), range(len(loop.hold_out))]
    tell(f"the model as it is scores {sum(map(len, places))} pairs: that is the reference")
    try:
        for rows, wanted in zip(tables, places, strict=True):
            score_reference(forward, rows, wanted, loop.learner.tokens_per_forward, loop.should_stop)
    except StopAsked:
        raise Stopped("stopped before the first step; the pairs are scored anew when it goes on") from None


def find_tables(*tables: Rows) -> list[PairRows]:
    """Those whose pairs have a reference."""
    return [rows for rows in tables if isinstance(rows, PairRows) and rows.reference.shape[1] > 0]


def _places_in_training(loop: Loop) -> Sequence[int]:
    """All, but where a run is known to end before it has seen them."""
    plan, count = loop.plan, len(loop.train_rows)
    if plan.epochs is not None or plan.evaluates_training_rows or loop.growth.most_changes > 0:
        return range(count)
    order: list[int] = epoch_order(count, plan.seed, 0, shuffles=plan.shuffles).tolist()
    return order[: plan.total_steps * plan.rows_per_step]
