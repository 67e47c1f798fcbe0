"""Every key of an optimizer changes its steps as the library's own class does by that key, or is refused."""

from collections.abc import Callable
from typing import Any, get_args

import bitsandbytes.optim as bnb
import pytest
import torch
from llm_api.config import Optimizer
from llm_runner.errors import ConfigInvalid
from llm_runner.train.optimizer import build_optimizer, check_optimizer
from pydantic import TypeAdapter
from transformers.optimization import Adafactor

# On a CPU there is nothing to page to, which the library tells.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

ADAPTER: TypeAdapter[Any] = TypeAdapter(Optimizer)
CPU, RATE, STEPS = torch.device("cpu"), 0.02, 6
Keys = dict[str, Any]
Build = Callable[..., torch.optim.Optimizer]

LIBRARY: dict[str, Build] = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad, "adamax": torch.optim.Adamax, "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam, "rmsprop": torch.optim.RMSprop, "muon": torch.optim.Muon, "adafactor": Adafactor,
    "sgd_8bit": bnb.SGD8bit, "adam_8bit": bnb.Adam8bit, "adamw_8bit": bnb.AdamW8bit, "paged_adam": bnb.PagedAdam,
    "paged_adam_8bit": bnb.PagedAdam8bit, "paged_adamw": bnb.PagedAdamW, "paged_adamw_8bit": bnb.PagedAdamW8bit,
    "adagrad_8bit": bnb.Adagrad8bit, "rmsprop_8bit": bnb.RMSprop8bit, "lamb": bnb.LAMB, "lamb_8bit": bnb.LAMB8bit,
    "lars": bnb.LARS, "lars_8bit": bnb.LARS8bit, "lion": bnb.Lion, "lion_8bit": bnb.Lion8bit,
    "paged_lion": bnb.PagedLion, "paged_lion_8bit": bnb.PagedLion8bit,
}  # fmt: skip
NOT_LIKE_IT: Keys = {
    "weight_decay": 0.3, "momentum": 0.5, "dampening": 0.4, "betas": [0.5, 0.6], "eps": 0.1, "amsgrad": True,
    "rho": 0.3, "initial_accumulator_value": 0.7, "lr_decay": 0.5, "momentum_decay": 0.9, "alpha": 0.3,
    "centered": True, "bias_correction": False, "adam_w_mode": False, "max_unorm": 0.001, "scale_parameter": False,
    "warmup_init": True, "percentile_clipping": 5, "block_wise": False,
}  # fmt: skip
"""Of each key a value that is not its default, and far enough from it to tell."""
PRINTED: Keys = {"weight_decay": 0.0, "betas": [0.9, 0.999], "max_unorm": 1.0}
"""Defaults of the config that are not the libraries' own."""
REFUSED = {
    ("adagrad_8bit", "initial_accumulator_value"), ("adagrad_8bit", "lr_decay"), ("lamb_8bit", "max_unorm"),
    ("rmsprop_8bit", "centered"), ("rmsprop_8bit", "momentum"), ("sgd_8bit", "dampening"), ("sgd_8bit", "nesterov"),
    ("lars", "dampening"), ("lars", "nesterov"), ("lars_8bit", "dampening"), ("lars_8bit", "nesterov"),
    ("lars_8bit", "max_unorm"), *((f"lamb{bits}", key) for bits in ("", "_8bit")
    for key in ("amsgrad", "bias_correction", "adam_w_mode")),
    *((f"{pages}{name}_8bit", "amsgrad") for pages in ("", "paged_") for name in ("adam", "adamw")),
    ("paged_adam", "amsgrad"), ("paged_adamw", "amsgrad"),
}  # fmt: skip
"""What the libraries refuse, or take and then compute without."""


def all_keys() -> list[tuple[str, str]]:
    kinds = get_args(get_args(Optimizer)[0])
    types = [(kind, name) for kind in kinds for name in get_args(kind.model_fields["type"].annotation)]
    return [(name, key) for kind, name in types if name in LIBRARY for key in kind.model_fields.keys() - {"type", "lr"}]


def is_refused(name: str, key: str) -> bool:
    return (name, key) in REFUSED or key == "percentile_clipping" or (key == "block_wise" and name.endswith("_8bit"))


def is_heard(name: str, key: str) -> bool:
    return not is_refused(name, key) and key not in ("block_wise", "relative_step")


def beside(name: str, key: str) -> Keys:
    """What must be written with a key, or for a type at all."""
    has_momentum = name == "sgd_8bit" or key in ("dampening", "nesterov")
    return {"momentum": 0.9} if has_momentum and name != "muon" else {}


def value_of(name: str, key: str) -> Any:
    return name != "muon" if key == "nesterov" else NOT_LIKE_IT[key]


def walk(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> torch.Tensor:
    """A few steps along gradients that turn and shrink, and depend on the weight."""
    for step in range(STEPS):
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(10 + step))
        weight.grad = drawn * (STEPS - step) + 0.5 * weight.detach()
        optimizer.step()
    return weight.detach()


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(128, 64, generator=torch.Generator().manual_seed(1)))


def ours(name: str, keys: Keys) -> torch.Tensor:
    weight = start()
    return walk(build_optimizer(ADAPTER.validate_python({"type": name, **keys}), [weight], RATE), weight)


def librarys(name: str, keys: Keys) -> torch.Tensor:
    weight = start()
    own = {key for kind, key in all_keys() if kind == name}
    defaults = {key: value for key, value in PRINTED.items() if key in own}
    defaults |= {"momentum": 0.9} if "lars" in name else {}
    rate = {} if name == "adafactor" else {"lr": RATE}
    return walk(LIBRARY[name]([weight], **rate, **{**defaults, **keys}), weight)


@pytest.mark.proves(
    "trainer.optimizer.weight_decay",
    "trainer.optimizer.betas",
    "trainer.optimizer.eps",
    "trainer.optimizer.amsgrad[adam, adamw]",
    "trainer.optimizer.momentum[sgd, sgd_8bit, rmsprop, lars, lars_8bit, muon]",
    "trainer.optimizer.dampening[sgd]",
    "trainer.optimizer.nesterov[sgd, muon]",
    "trainer.optimizer.rho",
    "trainer.optimizer.initial_accumulator_value[adagrad]",
    "trainer.optimizer.lr_decay[adagrad]",
    "trainer.optimizer.momentum_decay",
    "trainer.optimizer.alpha",
    "trainer.optimizer.centered[rmsprop]",
    "trainer.optimizer.max_unorm[lamb, lars]",
    "trainer.optimizer.scale_parameter",
    "trainer.optimizer.warmup_init",
)
@pytest.mark.parametrize(("name", "key"), sorted(pair for pair in all_keys() if is_heard(*pair)))
def test_a_key_changes_the_steps_as_it_changes_the_librarys(name: str, key: str) -> None:
    needed = beside(name, key)
    written = {**needed, key: value_of(name, key)}
    found = ours(name, written)
    torch.testing.assert_close(found, librarys(name, written), rtol=0, atol=0)
    assert (found - ours(name, needed)).abs().max() > 1e-5


@pytest.mark.proves(
    "trainer.optimizer.amsgrad[adam_8bit, paged_adam, paged_adam_8bit]",
    "trainer.optimizer.amsgrad[adamw_8bit, paged_adamw, paged_adamw_8bit, lamb, lamb_8bit]",
    "trainer.optimizer.momentum[rmsprop_8bit]",
    "trainer.optimizer.dampening[sgd_8bit, lars, lars_8bit]",
    "trainer.optimizer.nesterov[sgd_8bit, lars, lars_8bit]",
    "trainer.optimizer.initial_accumulator_value[adagrad_8bit]",
    "trainer.optimizer.lr_decay[adagrad_8bit]",
    "trainer.optimizer.centered[rmsprop_8bit]",
    "trainer.optimizer.bias_correction",
    "trainer.optimizer.adam_w_mode",
    "trainer.optimizer.max_unorm[lamb_8bit, lars_8bit]",
    "trainer.optimizer.percentile_clipping",
    "trainer.optimizer.block_wise[sgd_8bit, adam_8bit, paged_adam_8bit, adamw_8bit, paged_adamw_8bit]",
    "trainer.optimizer.block_wise[adagrad_8bit, rmsprop_8bit, lamb_8bit, lion_8bit, paged_lion_8bit]",
)
@pytest.mark.parametrize(("name", "key"), sorted(pair for pair in all_keys() if is_refused(*pair)))
def test_a_key_without_effect_is_refused_rather_than_passed_over(name: str, key: str) -> None:
    written = {"type": name, **beside(name, key), key: value_of(name, key)}
    with pytest.raises(
        ConfigInvalid, match=rf"trainer\.optimizer(\.{key}: found|: {name} can't be used with these keys)"
    ):
        check_optimizer(ADAPTER.validate_python(written), CPU)


@pytest.mark.proves("trainer.optimizer.block_wise[paged_adam, paged_adamw, lamb, lion, paged_lion]")
def test_blocks_that_there_are_none_of_may_be_said_to_be_none() -> None:
    for name in ("lamb", "lion", "paged_adamw", "paged_lion"):
        check_optimizer(ADAPTER.validate_python({"type": name, "block_wise": False}), CPU)


@pytest.mark.proves("trainer.optimizer.relative_step", "trainer.optimizer.lr")
def test_adafactor_follows_the_trainers_rate_or_its_own_only_without_relative_steps() -> None:
    by_trainer, by_own = (
        ours("adafactor", {"relative_step": False}),
        ours("adafactor", {"relative_step": False, "lr": 0.1}),
    )
    weights = [start(), start()]
    for weight, rate, found in zip(weights, (RATE, 0.1), (by_trainer, by_own), strict=True):
        torch.testing.assert_close(
            found, walk(Adafactor([weight], lr=rate, relative_step=False), weight), rtol=0, atol=0
        )
    assert (ours("adafactor", {}) - by_trainer).abs().max() > 1e-5
