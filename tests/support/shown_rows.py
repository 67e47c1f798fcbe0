"""A fine-tune whose prompts show solved rows, asked afterwards: as it trained, over HTTP and in batches."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llm_api.run import PredictRun, TrainRun
from llm_runner.report.reporter import Reporter
from llm_runner.train.inputs import gather_inputs

from tests.support import predictions
from tests.support.models import tiny_tokenizer
from tests.support.servers import RunningServer, running_server, serve_run


def training_prompts(run: TrainRun, folder: Path, part: str = "train") -> list[str]:
    """As the run itself makes them; ``part`` is train or validation."""
    rows = getattr(gather_inputs(run, folder, Reporter([])).data, part)
    examples = [rows.example(number) for number in range(len(rows))]
    return [str(tiny_tokenizer().decode(example.token_ids[: example.prompt_length])) for example in examples]


def serving(run: TrainRun, folder: Path) -> AbstractContextManager[RunningServer]:
    """A server of what the run has stored."""
    served = serve_run(Path(run.config.base_model), model={"artifactUri": run.output_uri})
    return running_server(served, folder)


def prompt_of(server: RunningServer, row: dict[str, Any]) -> str:
    """What the model is asked for a row."""
    predictor = server.service.find_predictor()
    return predictor.examples.build_task(predictor.setup, row, None).prompt.render_prompt(row)


def batch_of(
    run: TrainRun, artifact: Path | str, folder: Path, questions: Iterable[str], config: Mapping[str, Any] | None = None
) -> PredictRun:
    """The questions, answered by an artifact on the run's base."""
    data = predictions.write_jsonl(folder / "in.jsonl", [{"question": question} for question in questions])
    written = {} if config is None else dict(config)
    model = {"artifactUri": str(artifact)}
    return predictions.build_run(Path(run.config.base_model), data, folder / "out.jsonl", written, model=model)
