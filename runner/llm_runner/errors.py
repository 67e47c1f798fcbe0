"""Every way in which a run ends badly, and the exit code that each one means.

    RunError                     unexpected by type only; each leaf below has its own code
      UserError (10)             the config or the data is wrong; trying again changes nothing
        ConfigInvalid, DataInvalid, ModelNotFound, TargetModulesNotFound, OutputNotWritable
      ModelAccessDenied (11)     the credentials do not open the model or the data
      OutOfMemory (12)           the accelerator or the host is too small
      Diverged (13)              the loss became NaN or infinite
      GateNotMet (14)            trained, but the hold-out metric is past the gate
      StorageFailed (20)         storage or network failed; trying again may help
      PeerLost (21)              another process that this one trains with is gone; it says why
      Stopped (143)              SIGTERM; a checkpoint was saved

The reason that people see in a condition is the class's name. Other modules raise these; only
``llm_runner.__main__`` turns them into an exit code.
"""

import sys
from typing import ClassVar

from llm_api.report import ExitCode, Outcome


class RunError(Exception):
    """A run can't go on. ``str(error)`` says what was found and what to do about it."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    @property
    def reason(self) -> str:
        return type(self).__name__


class UserError(RunError):
    exit_code = ExitCode.USER_ERROR


class ConfigInvalid(UserError):
    pass


class DataInvalid(UserError):
    pass


class ModelNotFound(UserError):
    pass


class TargetModulesNotFound(UserError):
    pass


class OutputNotWritable(UserError):
    pass


class ModelAccessDenied(RunError):
    exit_code = ExitCode.ACCESS_DENIED


class OutOfMemory(RunError):
    exit_code = ExitCode.OUT_OF_MEMORY


class Diverged(RunError):
    exit_code = ExitCode.DIVERGED


class GateNotMet(RunError):
    exit_code = ExitCode.GATE_NOT_MET


class StorageFailed(RunError):
    exit_code = ExitCode.STORAGE_FAILED


class PeerLost(RunError):
    exit_code = ExitCode.PEER_LOST


class RanksEnded(Exception):
    """The processes that this one started have ended and told how; it ends as they did."""

    def __init__(self, code: int, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.code = code
        self.outcome = outcome


class Stopped(RunError):
    exit_code = ExitCode.STOPPED


def is_out_of_memory(error: BaseException) -> bool:
    """Also where a library says it: torch has a class for the accelerator only; on the host it says it in words."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
