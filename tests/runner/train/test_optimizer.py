"""Every optimizer of the config takes a step on this machine, or says at once why it can't."""

from typing import Any, get_args

import pytest
import torch
from llm_api.config import Optimizer
from llm_runner.errors import ConfigInvalid
from llm_runner.train.checkpoint import Snapshot, load_checkpoint, save_checkpoint
from llm_runner.train.optimizer import build_optimizer, check_optimizer, to_keywords
from pydantic import TypeAdapter

# On a CPU there is nothing to page to, which the library tells.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

CPU = torch.device("cpu")
ADAPTER: TypeAdapter[Any] = TypeAdapter(Optimizer)


def all_types() -> list[str]:
    union = get_args(Optimizer)[0]
    return [name for kind in get_args(union) for name in get_args(kind.model_fields["type"].annotation)]


NEEDED = {"sgd_8bit": {"momentum": 0.9}}
REFUSED = {"lbfgs", "schedule_free_adamw"}


def config_of(name: str, **keys: Any) -> Any:
    return ADAPTER.validate_python({"type": name, **NEEDED.get(name, {}), **keys})


def take_steps(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, count: int, seed: int = 0) -> None:
    """Down the slope of a bowl with its lowest point at 3."""
    for _ in range(count):
        optimizer.zero_grad()
        (parameter - 3.0).square().mean().backward()
        optimizer.step()


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(128, 64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.proves("trainer.optimizer.type")
@pytest.mark.parametrize("name", sorted(set(all_types()) - REFUSED))
def test_it_passes_the_check_and_goes_downhill(name: str) -> None:
    check_optimizer(config_of(name), CPU)
    parameter = start()
    before = (parameter - 3.0).square().mean().item()
    take_steps(build_optimizer(config_of(name), [parameter], 0.01), parameter, 5)
    assert (parameter - 3.0).square().mean().item() < before


@pytest.mark.parametrize("name", sorted(set(all_types()) - REFUSED))
def test_it_goes_on_from_a_checkpoint_exactly(name: str, tmp_path: Any) -> None:
    whole = start()
    optimizer = build_optimizer(config_of(name), [whole], 0.01)
    take_steps(optimizer, whole, 3)
    path = save_checkpoint(tmp_path, 3, Snapshot({"weight": whole}, {"optimizer": optimizer.state_dict()}))
    take_steps(optimizer, whole, 3)
    snapshot = load_checkpoint(path)
    other = torch.nn.Parameter(snapshot.weights["weight"])
    resumed = build_optimizer(config_of(name), [other], 0.01)
    resumed.load_state_dict(snapshot.state["optimizer"])
    take_steps(resumed, other, 3)
    torch.testing.assert_close(other, whole, rtol=0, atol=0)


@pytest.mark.proves(
    "trainer.optimizer.max_iter",
    "trainer.optimizer.max_eval",
    "trainer.optimizer.tolerance_grad",
    "trainer.optimizer.tolerance_change",
    "trainer.optimizer.history_size",
    "trainer.optimizer.line_search_fn",
    "trainer.optimizer.weight_decay[schedule_free_adamw]",
    "trainer.optimizer.betas[schedule_free_adamw]",
    "trainer.optimizer.warmup_steps",
)
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_can_not_be_used_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"trainer\.optimizer\.type: {name} can't be used here: .*use adamw"):
        check_optimizer(config_of(name), CPU)


def test_keys_that_the_library_refuses_are_told_with_its_reason() -> None:
    with pytest.raises(ConfigInvalid, match=r"trainer\.optimizer: sgd_8bit can't be used with these keys here: .*mom"):
        check_optimizer(config_of("sgd_8bit", momentum=0.0), CPU)
    with pytest.raises(ConfigInvalid, match=r"trainer\.optimizer: adafactor .* Cannot combine manual `lr`"):
        check_optimizer(config_of("adafactor", lr=0.01), CPU)


@pytest.mark.proves("trainer.optimizer.percentile_clipping")
def test_a_key_that_bitsandbytes_lost_is_refused_with_what_there_is_instead() -> None:
    with pytest.raises(ConfigInvalid, match=r"percentile_clipping: found 5, .*use trainer\.gradient_clipping"):
        check_optimizer(config_of("adamw_8bit", percentile_clipping=5), CPU)


def test_what_the_user_wrote_reaches_the_library() -> None:
    written = config_of("adamw", betas=[0.8, 0.88], eps=1e-4, weight_decay=0.3, amsgrad=True)
    group = build_optimizer(written, [start()], 0.02).param_groups[0]
    assert (list(group["betas"]), group["eps"]) == ([0.8, 0.88], 1e-4)
    assert (group["weight_decay"], group["amsgrad"], group["lr"]) == (0.3, True, 0.02)


@pytest.mark.proves("trainer.optimizer.lr", "trainer.optimizer.relative_step")
def test_adafactors_own_rate_counts_before_the_trainers() -> None:
    written = config_of("adafactor", lr=0.03, relative_step=False)
    assert to_keywords(written, 0.01)["lr"] == 0.03
    assert to_keywords(config_of("adafactor", relative_step=False), 0.01)["lr"] == 0.01
    assert to_keywords(config_of("adafactor"), 0.01)["lr"] is None


def test_muon_is_for_matrices_only() -> None:
    with pytest.raises(ConfigInvalid, match="muon updates matrices only"):
        build_optimizer(config_of("muon"), [torch.nn.Parameter(torch.ones(3))], 0.1)
