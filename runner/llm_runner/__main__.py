"""The command line: ``train``, ``serve``, ``predict``, ``export`` and ``delete RUN.json`` as pods call it, and for this
machine ``run``, ``profile`` and ``estimate -f MANIFEST``, and ``upload ARTIFACT``.

Reads the input, wires up who is told, and turns every way to end into an exit code and an Outcome. Heavy libraries are
imported once the input is known to be good.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from llm_api.config import NoneTrainer
from llm_api.issues import InvalidConfig, load
from llm_api.report import ExitCode, Outcome
from llm_api.run import PredictRun, ServeRun, TrainRun
from rich.console import Console
from rich.text import Text

from llm_runner.arguments import (
    add_common_arguments,
    add_estimate_arguments,
    add_inference_arguments,
    add_manifest_arguments,
    add_upload_arguments,
)
from llm_runner.errors import ConfigInvalid, OutOfMemory, RanksEnded, RunError, is_out_of_memory
from llm_runner.local.manifest import describe_issues
from llm_runner.local.options import LocalOptions
from llm_runner.local.run import AnyLocalRun, load_local_run
from llm_runner.report.lines import JsonLines
from llm_runner.report.memory import peak_memory_bytes
from llm_runner.report.outcome import save_outcome
from llm_runner.report.reporter import Reporter
from llm_runner.report.terminal import Terminal
from llm_runner.train.launched import is_rank, outcome_path, rank_number
from llm_runner.train.stop import stop_on_signals

AnyRun = TypeVar("AnyRun", TrainRun, ServeRun, PredictRun)

ABORTED = 128 + signal.SIGINT
"""What shells expect of a program that Ctrl-C ended."""
MEMORY_ADVICE = (
    "memory ran out: lower trainer.batch_size (max_batch_size where it is auto) or "
    "preprocessing.global_max_sequence_length, set "
    "trainer.enable_gradient_checkpointing, or quantize the base model"
)
ANYWHERE, THIS_MACHINE = "0.0.0.0", "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the process's exit code."""
    options = build_parser().parse_args(arguments)
    with closing(build_reporter()) as reporter:
        try:
            code: int = ExitCode.DONE
            outcome = execute(options, reporter)
            reporter.outcome(outcome)
        except RanksEnded as ended:
            code, outcome = ended.code, ended.outcome
        except (Exception, KeyboardInterrupt) as error:
            code, outcome = build_failure(error, reporter)
            reporter.outcome(outcome)
            show_failure(error, code, outcome)
        try:
            log: Path | None = options.termination_log
            save_outcome(outcome, outcome_path(log, rank_number()) if log is not None and is_rank() else log)
        except OSError as error:
            reporter.warning(f"the termination message could not be written: {error}")
    return code


def execute(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    with open_work_folder(options.work_dir) as work_path:
        run = options.load(options, reporter, work_path)
        if run is None:
            return Outcome(reason="Suspended")
        outcome: Outcome = options.start(run, options, reporter, work_path)
        return outcome


def start_serving(run: ServeRun, _options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    for warning in run.config.warnings():
        reporter.warning(warning)
    with quiet_libraries():
        from llm_runner.serve.run import serve

        return serve(run, reporter=reporter, work_path=work_path)


def start_predicting(run: PredictRun, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    should_stop = stop_on_signals()
    add_listeners(run, options, reporter)
    for warning in run.config.warnings():
        reporter.warning(warning)
    with quiet_libraries():
        if options.is_local:
            from llm_runner.local.batch import predict_shards as predict
        else:
            from llm_runner.predict.run import predict

        return predict(run, reporter=reporter, work_path=work_path, should_stop=should_stop)


def start_local(run: AnyLocalRun, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    """By the same code as in a pod; only the shards of a batch have no pods of their own."""
    match run:
        case TrainRun():
            if run.together.processes > 1:
                from llm_runner.train.launch import fit_to_machine

                run = fit_to_machine(run, reporter)
            return start_training(run, options, reporter, work_path)
        case ServeRun():
            return start_serving(run, options, reporter, work_path)
        case PredictRun():
            return start_predicting(run, options, reporter, work_path)


def start_exporting(run: ServeRun, _options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    with quiet_libraries():
        from llm_runner.serve.export import export

        return export(run, reporter=reporter, work_path=work_path)


def start_training(run: TrainRun, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    if run.together.processes > 1 and not is_rank():
        from llm_runner.train.launch import launch

        port = options.metrics_port
        launch(run, work_path, [] if port is None else ["--metrics-port", str(port)])
    should_stop = stop_on_signals()
    if rank_number() == 0:
        add_listeners(run, options, reporter)
    for warning in run.config.warnings():
        reporter.warning(warning)
    reporter.phase("Preparing")
    with quiet_libraries():
        if isinstance(run.config.trainer, NoneTrainer):
            from llm_runner.predict.untrained import measure_untrained

            return measure_untrained(run, reporter=reporter, work_path=work_path, should_stop=should_stop)
        from llm_runner.predict.sample import answer_sample
        from llm_runner.train.ranks import join_ranks
        from llm_runner.train.run import train

        with join_ranks() as ranks:
            return train(
                run,
                reporter=reporter,
                work_path=work_path / f"rank-{rank_number()}" if is_rank() else work_path,
                should_stop=should_stop,
                ask=answer_sample,
                ranks=ranks,
            )


def start_deleting(run: TrainRun, _options: argparse.Namespace, reporter: Reporter, _work_path: Path) -> Outcome:
    """What the run stored, not what else lies there; what it pushed to a hub stays."""
    from llm_runner.store.publish import delete_folder
    from llm_runner.store.unpublish import unpublish_folder

    delete_folder(run.checkpoint.uri, run.s3)
    files = unpublish_folder(run.output_uri, run.s3)
    reporter.info(f"{files} files of {run.output_uri} are deleted, and the checkpoints in {run.checkpoint.uri}")
    return Outcome(reason="Deleted")


def start_profiling(run: TrainRun, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    with quiet_libraries():
        from llm_runner.train.profile import profile

        return profile(run, options.output_dir, reporter=reporter, work_path=work_path)


def start_estimating(run: AnyLocalRun, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    with quiet_libraries():
        from llm_runner.local.estimate import estimate

        return estimate(run, options.device, options.longest_row, reporter=reporter, work_path=work_path)


def start_uploading(_load: object, options: argparse.Namespace, reporter: Reporter, work_path: Path) -> Outcome:
    with quiet_libraries():
        from llm_runner.local.upload import Upload, upload

        wanted = Upload(options.artifact, options.repo, private=options.private, merged=options.merged)
        return upload(wanted, reporter=reporter, work_path=work_path)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm-runner", description="Tune a language model as a manifest says.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="run a run file, as the operator has a pod do")
    train.add_argument("run_file", type=Path, metavar="RUN.json")
    train.set_defaults(load=partial(load_run_file, TrainRun), start=start_training, metrics_host=ANYWHERE)
    serve = commands.add_parser("serve", help="serve what a run file says over HTTP, as the operator has a pod do")
    serve.add_argument("run_file", type=Path, metavar="RUN.json")
    serve.set_defaults(load=partial(load_run_file, ServeRun), start=start_serving)
    predict = commands.add_parser("predict", help="answer a dataset as a run file says, as the operator has a pod do")
    predict.add_argument("run_file", type=Path, metavar="RUN.json")
    predict.set_defaults(load=partial(load_run_file, PredictRun), start=start_predicting, metrics_host=ANYWHERE)
    predict.set_defaults(is_local=False)
    export = commands.add_parser("export", help="fetch the model of a run file for vLLM, and write vLLM's settings")
    export.add_argument("run_file", type=Path, metavar="RUN.json")
    export.set_defaults(load=partial(load_run_file, ServeRun), start=start_exporting)
    delete = commands.add_parser("delete", help="delete what the run of a run file has stored")
    delete.add_argument("run_file", type=Path, metavar="RUN.json")
    delete.set_defaults(load=partial(load_run_file, TrainRun), start=start_deleting)
    local = commands.add_parser("run", help="tune, serve or answer a dataset on this machine, as a manifest says")
    add_manifest_arguments(local)
    add_inference_arguments(local)
    local.set_defaults(load=load_manifest, start=start_local, metrics_host=THIS_MACHINE, is_local=True)
    profile = commands.add_parser(
        "profile", help="show how many tokens a manifest's rows have, and what limits would cut"
    )
    add_manifest_arguments(profile)
    profile.set_defaults(load=load_profiled, start=start_profiling, output_dir=Path.cwd())
    estimate = commands.add_parser("estimate", help="say how much memory a manifest takes, and which accelerators fit")
    add_manifest_arguments(estimate)
    add_estimate_arguments(estimate)
    estimate.set_defaults(load=load_estimated, start=start_estimating)
    upload = commands.add_parser("upload", help="push a stored model to a Hugging Face hub; its token is HF_TOKEN")
    add_upload_arguments(upload)
    upload.set_defaults(load=lambda *_: "nothing to read", start=start_uploading)
    for command in (train, predict, local):
        command.add_argument("--metrics-port", type=int, metavar="N", help="serve Prometheus metrics on this port")
    for command in (train, predict, local, serve, export, delete, profile, estimate, upload):
        add_common_arguments(command)
    return parser


def load_run_file(kind: type[AnyRun], options: argparse.Namespace, _reporter: Reporter, _work_path: Path) -> AnyRun:
    path: Path = options.run_file
    try:
        return load(kind, json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigInvalid(f"{path}: can't be read: {error.strerror}") from error
    except InvalidConfig as error:
        raise ConfigInvalid(describe_issues(path, kind.__name__, error.issues)) from error
    except ValueError as error:
        raise ConfigInvalid(f"{path}: is not JSON: {error}") from error


def load_manifest(options: argparse.Namespace, reporter: Reporter, work_path: Path) -> AnyLocalRun | None:
    """None where the run is suspended."""
    manifest, *beside = options.manifests
    choices = LocalOptions(
        name=options.name,
        volumes=dict(options.volumes),
        output_path=options.output_dir,
        beside=beside,
        model_path=options.model_dir,
        host=options.host,
        port=options.port,
        api_key_path=options.api_key_file,
    )
    local = load_local_run(manifest, choices, work_path)
    for note in local.notes:
        reporter.info(note)
    if local.suspended_by is not None:
        reporter.info(f"nothing is run: {local.suspended_by}")
        return None
    return local.run


def load_profiled(options: argparse.Namespace, _reporter: Reporter, work_path: Path) -> AnyLocalRun:
    manifest, *beside = options.manifests
    choices = LocalOptions(options.name, dict(options.volumes), options.output_dir, beside)
    return load_local_run(manifest, choices, work_path, kinds=["LLMFineTune"]).run


def load_estimated(options: argparse.Namespace, _reporter: Reporter, work_path: Path) -> AnyLocalRun:
    manifest, *beside = options.manifests
    choices = LocalOptions(options.name, dict(options.volumes), options.output_dir, beside, options.model_dir)
    return load_local_run(manifest, choices, work_path).run


def build_reporter() -> Reporter:
    """A bar where somebody looks, else JSON lines; of several processes one tells."""
    if rank_number() > 0:
        return Reporter([])
    if sys.stdout.isatty():
        return Reporter([Terminal(Console(highlight=False))])
    return Reporter([JsonLines(sys.stdout)])


def add_listeners(run: TrainRun | PredictRun, options: argparse.Namespace, reporter: Reporter) -> None:
    if options.metrics_port is not None:
        from llm_runner.report.metrics import PrometheusServer

        try:
            server = PrometheusServer(options.metrics_port, options.metrics_host)
        except (OSError, OverflowError) as error:
            raise ConfigInvalid(f"--metrics-port {options.metrics_port} can't be served: {error}") from error
        reporter.add(server)
        reporter.info(f"metrics are served at {server.url}")
    if run.progress_url is not None:
        from llm_runner.report.push import ProgressPush

        token_path = None if run.progress_token_path is None else Path(run.progress_token_path)
        reporter.add(ProgressPush(run.progress_url, token_path, reporter.warning))


@contextmanager
def open_work_folder(work_dir: Path | None) -> Iterator[Path]:
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
        yield work_dir
        return
    with tempfile.TemporaryDirectory(prefix="llm-runner-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps bars and chatter of the libraries from what people read; only this program's own warnings are shown."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def build_failure(error: BaseException, reporter: Reporter) -> tuple[int, Outcome]:
    """Exit code and Outcome of what was raised."""
    code, reason, message = describe_failure(error)
    latest = reporter.latest
    peak_bytes = float(peak_memory_bytes()) if code == ExitCode.OUT_OF_MEMORY else None
    figures = {"train.loss": latest.loss, "eval.loss": latest.eval_loss, "peak_memory_bytes": peak_bytes}
    metrics = {name: value for name, value in figures.items() if value is not None}
    return code, Outcome(
        reason=reason,
        message=message,
        last_step=latest.step,
        resumed_from_step=latest.resumed_from_step,
        metrics=metrics,
    )


def describe_failure(error: BaseException) -> tuple[int, str, str]:
    """Exit code, reason and message."""
    if isinstance(error, InvalidConfig):
        return ExitCode.USER_ERROR, ConfigInvalid.__name__, str(error)
    if isinstance(error, RunError):
        return error.exit_code, error.reason, str(error)
    if isinstance(error, KeyboardInterrupt):
        return ABORTED, "Aborted", "ended by Ctrl-C; work since the last checkpoint is lost"
    if is_out_of_memory(error):
        return ExitCode.OUT_OF_MEMORY, OutOfMemory.__name__, f"{MEMORY_ADVICE} ({type(error).__name__}: {error})"
    return ExitCode.UNEXPECTED, "Unexpected", f"{type(error).__name__}: {error}"


def show_failure(error: BaseException, code: int, outcome: Outcome) -> None:
    """For people, on standard error; a traceback only for what nobody foresaw."""
    if code == ExitCode.UNEXPECTED:
        traceback.print_exception(error)
    label = Text("stopped: ", "yellow") if code == ExitCode.STOPPED else Text("error: ", "bold red")
    several = "\n" if "\n" in outcome.message else " "
    line = Text().append(label).append(f"{outcome.reason}:{several}{outcome.message}")
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


if __name__ == "__main__":
    sys.exit(main())
