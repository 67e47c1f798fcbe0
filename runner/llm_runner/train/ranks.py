"""The processes that train one model together: which one this is, and what all of them agree on.

All walk through the same code in step. Whatever decides what happens next is agreed on here, so that none waits for a
call that another doesn't make; one whose partner is gone finds out in the next of them. Starts no processes: that is
``launch``'s.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from llm_runner.errors import PeerLost, RunError
from llm_runner.train.launched import LOCAL_COUNT, LOCAL_RANK, is_rank
from llm_runner.train.sharding import is_shared_out

PATIENCE = timedelta(days=1)
"""For partners that store, merge or wait for a slow machine. One that is gone shows at once, by its connection."""
BUCKET_NUMBERS = 2**24
"""Gradients that are summed in one exchange."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. As it is made, it is alone: nothing is exchanged then."""

    number: int = 0
    count: int = 1
    count_here: int = 1
    """Of them on this machine."""
    number_here: int = 0
    """This process among those of its machine."""
    group: Any = None
    """torch's process group, on the host, for what is agreed on."""
    group_here: Any = None
    """The same of this machine's processes only."""
    group_firsts: Any = None
    """The same of each machine's first process; None in the others."""
    share_layers: bool = False
    """Whether each forward and backward pass takes all of them, as they put layers together for it."""

    @property
    def is_first(self) -> bool:
        """The one that reports, saves and stores."""
        return self.number == 0

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Places of this process's part of a step's rows, whose lengths these are, in their order.

        The longest come first and each goes to whoever has the fewest tokens (Graham 1969, section 2: longest
        processing time first), so that none waits long for the others.
        """
        if self.count == 1:
            return list(range(len(lengths)))
        tokens, parts = [0] * self.count, [list[int]() for _ in range(self.count)]
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            least = min(range(self.count), key=tokens.__getitem__)
            parts[least].append(place)
            tokens[least] += lengths[place]
        return sorted(parts[self.number])

    def deal(self, count: int) -> range:
        """This process's part of a table of ``count`` rows that are all to be looked at."""
        return range(self.number, count, self.count)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Each summed over all processes, in float64."""
        if self.count == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        with noticing_loss():
            distributed.all_reduce(values, group=self.group)
        return values.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least."""
        return self.total([float(flag)])[0] > 0

    def least(self, number: int) -> int:
        return min(self.gather(number))

    def gather(self, value: Value) -> list[Value]:
        """What each of them has, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with noticing_loss():
            distributed.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, and no other does, for all of them."""
        return make() if self.count == 1 else self._from(0, self.group, make)

    def from_first_here(self, make: Callable[[], Value]) -> Value:
        """What the first process of each machine makes, for all of that machine: files, and where they are."""
        if self.count_here == 1:
            return make()
        return self._from(self.number - self.number_here, self.group_here, make)

    def _from(self, maker: int, group: Any, make: Callable[[], Value]) -> Value:
        """Where it can't be made all of them say why, not only that another process is gone."""
        made: list[Any] = [None, None]
        if self.number == maker:
            try:
                made = [make(), None]
            except RunError as error:
                made = [None, error]
        with noticing_loss():
            distributed.broadcast_object_list(made, src=maker, group=group)
        value, failure = made
        if failure is not None:
            raise failure
        return value  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Until all of them are here."""
        self.total([0.0])

    def even_out(self, values: Sequence[torch.Tensor]) -> None:
        """Gives all processes the first one's tensors, in place."""
        if self.count == 1:
            return
        with noticing_loss(), torch.no_grad():
            for value in values:
                if not is_shared_out(value):
                    distributed.broadcast(value, src=0)

    def passes(self, groups: Iterator[list[Value]], spare: Callable[[], Value]) -> Iterator[tuple[list[Value], bool]]:
        """This process's groups, each of which counts; where layers are shared, also groups of one spare that don't,
        as often as another process has one more.
        """
        while True:
            group = next(groups, None)
            if self.share_layers and self.any(group is not None):
                yield ([spare()], False) if group is None else (group, True)
            elif group is not None:
                yield group, True
            else:
                return

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Over all processes, in place; one that had no row for a weight adds nothing to it. Those of weights that are
        shared out were summed as they came.
        """
        if self.count == 1:
            return
        parameters = [value for value in parameters if not is_shared_out(value)]
        holders = self.total([float(value.grad is not None) for value in parameters])
        trained = [value for value, count in zip(parameters, holders, strict=True) if count > 0]
        for bucket in _buckets(trained):
            grads = [torch.zeros_like(value) if value.grad is None else value.grad for value in bucket]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            with noticing_loss():
                distributed.all_reduce(flat)
            parts = flat.split([grad.numel() for grad in grads])
            for value, part in zip(bucket, parts, strict=True):
                value.grad = part.view_as(value)

    def draw_apart(self, seed: int, step: int) -> None:
        """Random numbers of a step: other ones in each process, and the same when a run goes on from a checkpoint."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + step) * self.count + self.number)


ALONE = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The processes that torch's launcher started with this one; alone where there was none."""
    if not is_rank():
        yield ALONE
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ[LOCAL_RANK]))
    with noticing_loss():
        distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=PATIENCE)
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        here, count_here = int(os.environ[LOCAL_RANK]), int(os.environ[LOCAL_COUNT])
        group_here, _ = distributed.new_subgroups(count_here, timeout=PATIENCE, backend="gloo")
        firsts = list(range(0, distributed.get_world_size(), count_here))
        group_firsts = distributed.new_group(firsts, backend="gloo", timeout=PATIENCE)
    number, count = distributed.get_rank(), distributed.get_world_size()
    try:
        yield Ranks(number, count, count_here, here, group, group_here, group_firsts if here == 0 else None)
    except RuntimeError as error:
        if is_loss_of_partner(error):
            raise PeerLost(_describe_loss(error)) from error
        raise
    finally:
        distributed.destroy_process_group()


def is_loss_of_partner(error: RuntimeError) -> bool:
    """Of an exchange that torch made by itself, in the midst of a pass."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo/", "NCCL"))


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket, numbers = list[torch.nn.Parameter](), 0
    for value in parameters:
        if bucket and numbers + value.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(value)
        numbers += value.numel()
    if bucket:
        yield bucket


@contextmanager
def noticing_loss() -> Iterator[None]:
    """torch tells of a lost connection by a RuntimeError, whatever carries it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(_describe_loss(error)) from error


def _describe_loss(error: RuntimeError) -> str:
    return f"another process of this run is gone; its own log says why ({str(error).splitlines()[0]})"
