"""Who works in the next step, and on which blocks: continuous batching, decided without the model.

Everyone who runs gets a token in each step; what is left of the step's budget reads prompts, in parts where they are
long. A sequence starts once there are blocks for all that it has. When there are none to go on with, the youngest
gives its own back and is read again later, from what of it is still cached.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from llm_runner.generate.cache import BLOCK_TOKENS, BlockPool
from llm_runner.generate.engine_sequence import Work


@dataclass(frozen=True)
class Limits:
    """What a step may hold."""

    running: int
    """Sequences that are worked on at once."""
    step_tokens: int
    """Tokens that are read in one step."""


@dataclass(frozen=True)
class Share:
    """What one sequence does in a step."""

    work: Work
    count: int
    """Of its next tokens."""


class Schedule:
    """Waiting and running sequences, in the order that they came in."""

    def __init__(self, block_count: int, limits: Limits, *, shares_prefixes: bool = True) -> None:
        self.pool = BlockPool(block_count)
        self.waiting: deque[Work] = deque()
        self.running: list[Work] = []
        self.preemptions = 0
        self._limits = limits
        self._shares_prefixes = shares_prefixes

    def add(self, work: Work) -> None:
        self.waiting.append(work)

    def plan_step(self) -> list[Share]:
        """Empty only where nothing waits or runs. Those of one adapter stand side by side."""
        budget = self._limits.step_tokens
        shares: list[Share] = []
        for work in sorted(self.running, key=lambda work: work.left > 1):
            count = min(work.left, budget)
            if count and work in self.running and self._grow(work, work.computed + count):
                shares.append(Share(work, count))
                budget -= count
        shares = [share for share in shares if share.work in self.running]
        shares.extend(self._admit(budget))
        return sorted(shares, key=lambda share: share.work.request.adapter or "")

    def finish_step(self, shares: list[Share]) -> None:
        """What was planned is in the cache now; full blocks can be found by others."""
        for share in shares:
            work = share.work
            work.computed += share.count
            full = work.computed // BLOCK_TOKENS
            if self._shares_prefixes:
                for block, name in zip(
                    work.blocks[work.published : full], work.names(full)[work.published :], strict=True
                ):
                    self.pool.publish(block, name)
            work.published = full

    def remove(self, work: Work, *, is_broken: bool = False) -> list[int]:
        """A sequence is over, whether it ran or waited. Gives the blocks that nobody may read, if it is broken."""
        if work not in self.running:
            self.waiting.remove(work)
            return []
        self.running.remove(work)
        blocks = list(work.blocks)
        self._release(work)
        return self.pool.forget(blocks) if is_broken else []

    def _admit(self, budget: int) -> Iterator[Share]:
        """Starts waiting sequences, first come first served, but for those that wait for another's prefix."""
        claimed = self._claimed_names()
        for work in list(self.waiting):
            if budget == 0 or len(self.running) >= self._limits.running:
                return
            if self._is_being_computed(work, claimed):
                continue
            if not self._start(work):
                return
            claimed.update(self._unpublished_names(work))
            count = min(work.left, budget)
            budget -= count
            yield Share(work, count)

    def _claimed_names(self) -> set[bytes]:
        """Names of blocks that running sequences are about to write."""
        return {name for work in self.running for name in self._unpublished_names(work)}

    def _unpublished_names(self, work: Work) -> list[bytes]:
        if not self._shares_prefixes or work.left <= 1:
            return []
        return list(work.names(work.sharable_blocks)[work.published :])

    def _is_being_computed(self, work: Work, claimed: set[bytes]) -> bool:
        """Whether the block that it would compute first is just being computed for another one."""
        if not claimed:
            return False
        names = work.names(work.sharable_blocks)
        return any(name in claimed for name in names[len(self.pool.match(names)) :][:1])

    def _start(self, work: Work) -> bool:
        """Gives a sequence blocks for all its tokens, those of a known prefix shared; False where there are too few."""
        shared = self.pool.match(work.names(work.sharable_blocks)) if self._shares_prefixes else []
        missing = self.pool.blocks_for(len(work.token_ids)) - len(shared)
        if missing > self.pool.free_count - self.pool.count_free(shared):
            return False
        self.pool.share(shared)
        fresh = self.pool.allocate(missing)
        assert fresh is not None, "counted above"
        work.blocks = [*shared, *fresh]
        work.published = len(shared)
        work.computed = len(shared) * BLOCK_TOKENS
        if work.new_tokens == 0:
            work.cached_tokens = work.computed
        self.waiting.remove(work)
        self.running.append(work)
        return True

    def _grow(self, work: Work, tokens: int) -> bool:
        """Blocks for so many tokens, taken from the youngest where none are free; False where it was the youngest."""
        while (missing := self.pool.blocks_for(tokens) - len(work.blocks)) > 0:
            fresh = self.pool.allocate(missing)
            if fresh is not None:
                work.blocks.extend(fresh)
                return True
            youngest = max(self.running, key=lambda other: other.number)
            self._preempt(youngest)
            if youngest is work:
                return False
        return True

    def _preempt(self, work: Work) -> None:
        self.preemptions += 1
        self.running.remove(work)
        self._release(work)
        self.waiting.appendleft(work)

    def _release(self, work: Work) -> None:
        # Last blocks first: what a prefix begins with is found the longest.
        self.pool.release(reversed(work.blocks))
        work.blocks, work.computed, work.published = [], 0, 0
