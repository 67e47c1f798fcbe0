"""A request on its way through the engine: what is known of it so far, and what of that is in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from llm_runner.generate.cache import BLOCK_TOKENS, chain_hash
from llm_runner.generate.engine_batch import Piece
from llm_runner.generate.engine_request import Deliver, Request, Sampling


@dataclass(eq=False)
class Work:
    """One sequence. ``computed`` of its tokens are in ``blocks``; the others are still to be read."""

    number: int
    request: Request
    deliver: Deliver
    arrived_seconds: float
    token_ids: list[int]
    """Prompt and answer so far."""
    random: Random
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    first_token_seconds: float | None = None
    """Counted from when it was asked for."""
    published: int = 0
    """How many of its blocks others can find."""
    _names: list[bytes] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def top_logprobs(self) -> int | None:
        return self.request.top_logprobs

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self.token_ids) - self.computed

    @property
    def deadline_seconds(self) -> float | None:
        limit = self.request.max_seconds
        return None if limit is None else self.arrived_seconds + limit

    def names(self, count: int) -> Sequence[bytes]:
        """The names of its first ``count`` blocks, all of them full."""
        while len(self._names) < count:
            start = len(self._names) * BLOCK_TOKENS
            parent = self._names[-1] if self._names else (self.request.adapter or "").encode()
            self._names.append(chain_hash(parent, self.token_ids[start : start + BLOCK_TOKENS]))
        return self._names[:count]

    @property
    def sharable_blocks(self) -> int:
        """Full blocks that it could take from others: at least one token is left to go on from."""
        return (len(self.token_ids) - 1) // BLOCK_TOKENS

    def piece(self, count: int) -> Piece:
        """The next ``count`` of its tokens."""
        return Piece(
            token_ids=self.token_ids[self.computed : self.computed + count],
            start=self.computed,
            blocks=self.blocks,
            sequence=self.number,
            adapter=self.request.adapter,
            wants_logits=count == self.left,
        )


def build_work(number: int, request: Request, deliver: Deliver, arrived_seconds: float) -> Work:
    random = Random(request.sampling.seed)
    return Work(number, request, deliver, arrived_seconds, list(request.prompt_ids), random)
