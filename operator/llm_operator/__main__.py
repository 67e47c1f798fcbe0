"""``python -m llm_operator``: one replica of the operator, until it is told to stop."""

import asyncio
import logging
import os
import sys

import kopf

from llm_operator.controller import Planner
from llm_operator.errors import SettingsInvalid
from llm_operator.options import Options, load_all
from llm_operator.reconcile.finetune import plan_fine_tune
from llm_operator.reconcile.inference import plan_inference
from llm_operator.replica import Replica
from llm_operator.settings import Settings
from llm_operator.store import FINE_TUNE, INFERENCE

CONFIGURED_WRONGLY = 2


def main() -> int:
    try:
        options, settings = load_all(sys.argv[1:], os.environ)
    except SettingsInvalid as error:
        print(f"llm_operator: {error}", file=sys.stderr)  # noqa: T201 - there is no log before there is a format for it
        return CONFIGURED_WRONGLY
    configure_logs(options)
    asyncio.run(run(options, settings))
    return 0


async def run(options: Options, settings: Settings) -> None:
    planners: dict[str, Planner] = {
        FINE_TUNE: lambda observed, now: plan_fine_tune(observed, settings, now),
        INFERENCE: lambda observed, now: plan_inference(observed, settings, now),
    }
    await Replica(options, settings, planners).run()


def configure_logs(options: Options) -> None:
    kopf.configure(log_format=kopf.LogFormat.JSON if options.log_format == "json" else kopf.LogFormat.FULL)
    logging.getLogger().setLevel(options.log_level.upper())
    # kopf tells of each event that a handler took: thousands a minute that say nothing.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
