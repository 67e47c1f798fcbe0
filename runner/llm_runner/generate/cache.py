"""Which block of the key-value cache belongs to whom: a ledger of block numbers that knows no tensors.

A block holds a fixed number of tokens. Blocks that hold the same tokens after the same prefix are shared, found by a
hash chained over whole blocks; a block that nobody uses keeps its content until the room is needed, the one unused
longest first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

BLOCK_TOKENS = 16


def chain_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Names a block by its tokens and by all that came before them; ``parent`` is the hash of the block before."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class BlockPool:
    """Every block is either in use, by one sequence or several, or free; a free one may still hold what it held."""

    def __init__(self, count: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self.count = count
        self.block_tokens = block_tokens
        self._users = [0] * count
        self._hashes: list[bytes | None] = [None] * count
        self._by_hash: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def free_count(self) -> int:
        return len(self._free)

    @property
    def used_count(self) -> int:
        return self.count - len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold ``tokens``."""
        return -(-tokens // self.block_tokens)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known prefix, without taking them."""
        found = []
        for name in hashes:
            block = self._by_hash.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of some blocks nobody uses: taking those takes from ``free_count``."""
        return sum(self._users[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Takes blocks that hold what another sequence has computed, or computes no more."""
        for block in blocks:
            if self._users[block] == 0:
                del self._free[block]
            self._users[block] += 1

    def allocate(self, count: int) -> list[int] | None:
        """Takes ``count`` blocks to write to, or none at all where there are fewer."""
        if count > len(self._free):
            return None
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._users[block] = 1
        return blocks

    def publish(self, block: int, name: bytes) -> None:
        """Lets others find a block that is fully written; where they find another one already, that one stays."""
        if name not in self._by_hash and self._hashes[block] is None:
            self._by_hash[name] = block
            self._hashes[block] = name

    def release(self, blocks: Iterable[int]) -> None:
        """Gives blocks back: those without a name are used again first, those with one last."""
        for block in blocks:
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=self._hashes[block] is not None)

    def forget(self, blocks: Iterable[int]) -> list[int]:
        """Nobody finds these by what they hold any more; gives those that nobody uses either."""
        blocks = list(blocks)
        for block in blocks:
            self._forget(block)
        return [block for block in blocks if self._users[block] == 0]

    def _forget(self, block: int) -> None:
        name = self._hashes[block]
        if name is not None:
            del self._by_hash[name]
            self._hashes[block] = None
