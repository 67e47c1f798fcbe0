"""All that can be checked before anything expensive: places to write, data, model files, tokens, memory.

Ends with everything on this machine and tokenized. Loads no weights.
"""

from dataclasses import dataclass
from pathlib import Path

from llm_api.config import PreferenceTrainer, TuningTrainer
from llm_api.run import DataLocation, TrainRun
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from llm_runner.data.pairs import build_pair_rows
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.split import TEST, TRAIN, VALIDATION
from llm_runner.errors import ConfigInvalid
from llm_runner.model.embedding import KEY as EMBEDDING_KEY
from llm_runner.model.embedding import EmbeddingModel, load_embedding_model
from llm_runner.model.load import load_config, load_tokenizer
from llm_runner.model.rope import context_length
from llm_runner.report.reporter import Reporter
from llm_runner.store.fetch import FetchedModel, fetch_folder, fetch_model, fetch_table
from llm_runner.store.hub import read_token
from llm_runner.store.publish import check_writable
from llm_runner.train.batch import Rows
from llm_runner.train.device import choose_device
from llm_runner.train.machines import find_machines
from llm_runner.train.plan import RunSize
from llm_runner.train.preference import build_method
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.refusals import check_config


@dataclass(frozen=True)
class Inputs:
    """A run's files and rows, on this machine."""

    trainer: TuningTrainer
    base: FetchedModel
    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    data: PreparedData
    pretrained_adapter_path: Path | None
    train_rows: Rows
    """What is trained on: never empty."""
    hold_out: Rows
    """What the run is judged on; may be empty."""

    @property
    def size(self) -> RunSize:
        rows = self.train_rows
        lengths = rows.lengths
        return RunSize(len(rows), longest_row_tokens=int(lengths.max()), train_tokens=int(lengths.sum()))


@dataclass(frozen=True)
class _Fetched:
    """A run's files: on this machine, but for tables that are read where they are."""

    data: DataFiles
    base: FetchedModel
    adapter_path: Path | None


def gather_inputs(run: TrainRun, work_path: Path, reporter: Reporter, ranks: Ranks = ALONE) -> Inputs:
    """Raises the error that a user should see first, cheapest checks first.

    The first process of each machine fetches and tokenizes the machine's part of the rows, and exchanges it for the
    parts of other machines, below its own ``work_path``; the others use its files.
    """
    trainer = check_config(run, choose_device())
    fetched = ranks.from_first_here(lambda: _fetch(run, work_path))
    base, adapter_path = fetched.base, fetched.adapter_path
    model_config = load_config(base.path, run.config.model_parameters)
    tokenizer = load_tokenizer(base.path)
    data = ranks.from_first_here(
        lambda: prepare_data(
            run.config,
            tokenizer,
            fetched.data,
            context_length=context_length(model_config, run.config.model_parameters),
            work_path=work_path,
            seed=run.seed,
            warn=reporter.warning,
            embed=fetch_embedding_model(run, read_token(run.hub_token_path)),
            together=find_machines(ranks),
        )
    )
    if run.gate is not None and data.hold_out is None:
        raise ConfigInvalid("gate: there is no hold-out to measure on; add dataset.validation or preprocessing.split")
    return Inputs(trainer, base, model_config, tokenizer, data, adapter_path, *choose_rows(trainer, data))


def _fetch(run: TrainRun, work_path: Path) -> _Fetched:
    for uri in (run.output_uri, run.checkpoint.uri):
        check_writable(uri, run.s3)
    token = read_token(run.hub_token_path)
    data = fetch_data(run, work_path / "data", token)
    return _Fetched(data, fetch_base(run, token), _fetch_adapter(run, work_path, token))


def choose_rows(trainer: TuningTrainer, data: PreparedData) -> tuple[Rows, Rows]:
    """What is trained on and what is held out: validation rows, else test rows; pairs where the trainer takes pairs."""
    splits = (data.train, data.validation, data.test)
    chosen = (TRAIN, VALIDATION if len(data.validation) > 0 else TEST)
    if not isinstance(trainer, PreferenceTrainer):
        train, hold_out = (splits[split] for split in chosen)
        return train, hold_out
    scores = build_method(trainer).scores
    pairs, held_pairs = (build_pair_rows(splits[split], data.rejected[split], scores=scores) for split in chosen)
    return pairs, held_pairs


def fetch_base(run: TrainRun, token: str | None) -> FetchedModel:
    return _fetch_by_name(run, run.config.base_model, "base_model", token)


def fetch_embedding_model(run: TrainRun, token: str | None) -> EmbeddingModel | None:
    """None where the config chooses no examples by likeness of meaning."""
    retrieval = run.config.effective_prompt.retrieval
    if retrieval.type != "semantic":
        return None
    return load_embedding_model(_fetch_by_name(run, str(retrieval.model_name), EMBEDDING_KEY, token).path)


def _fetch_by_name(run: TrainRun, name: str, key: str, token: str | None) -> FetchedModel:
    """``key``: what the config calls it."""
    return fetch_model(
        name,
        model_root=None if run.model_root is None else Path(run.model_root),
        cache_path=None if run.model_cache_path is None else Path(run.model_cache_path),
        s3=run.s3,
        token=token,
        key=key,
    )


def fetch_data(run: TrainRun, folder: Path, token: str | None) -> DataFiles:
    def fetch(location: DataLocation, split: str) -> DataFile:
        return DataFile(fetch_table(location.uri, folder / split, run.s3, token), location.format)

    dataset = run.dataset
    return DataFiles(
        train=fetch(dataset.train, "train"),
        validation=None if dataset.validation is None else fetch(dataset.validation, "validation"),
        test=None if dataset.test is None else fetch(dataset.test, "test"),
    )


def _fetch_adapter(run: TrainRun, work_path: Path, token: str | None) -> Path | None:
    """The adapter to go on from: a folder here or under the model root, at s3://, or a hub's id."""
    adapter = run.config.adapter
    source = None if adapter is None else adapter.pretrained_adapter_weights
    if source is None:
        return None
    if source.startswith("s3://"):
        return fetch_folder(source, work_path / "pretrained-adapter", run.s3)
    root = None if run.model_root is None else Path(run.model_root)
    key = "adapter.pretrained_adapter_weights"
    return fetch_model(source, model_root=root, s3=run.s3, token=token, key=key).path
