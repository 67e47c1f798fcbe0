"""A fine-tune from its run file to its stored artifact, read from top to bottom: gather, build, fit, judge, store.

The steps themselves are in the modules beside this one. Handles no signals and no command line.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llm_api.report import Outcome
from llm_api.run import TrainRun
from peft import PeftModel
from transformers import PreTrainedModel

from llm_runner.errors import DataInvalid, Diverged, GateNotMet
from llm_runner.model.adapter import count_trainable
from llm_runner.model.memory import GRADIENT_BYTES, state_bytes_of
from llm_runner.model.rope import context_length
from llm_runner.report.metrics_file import RunMetrics
from llm_runner.report.reporter import Reporter
from llm_runner.report.sample import Sample
from llm_runner.store.hub import read_token
from llm_runner.store.publish import Published, publish_folder
from llm_runner.train.artifact import save_rest, save_weights
from llm_runner.train.build import build_learner, build_model, resolve_dtype
from llm_runner.train.device import choose_device
from llm_runner.train.evaluate import Evaluation, evaluate
from llm_runner.train.figures import Judged, ParameterCounts, to_metrics, to_outcome
from llm_runner.train.fit import choose_gauge, measure_tokens_per_forward
from llm_runner.train.inputs import Inputs, gather_inputs
from llm_runner.train.keeper import CheckpointPlace, Keeper
from llm_runner.train.learner import Learner
from llm_runner.train.loop import Loop, LoopPlan
from llm_runner.train.memory import settle_sharing
from llm_runner.train.plan import plan_growth, plan_horizon, plan_loop, plan_plateau, plan_sizes_to_try
from llm_runner.train.push import push_artifact
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.reference import find_tables, work_out_reference
from llm_runner.train.sample import Ask, Asked, ask_sample
from llm_runner.train.schedule import build_factor
from llm_runner.train.sharding import put_together
from llm_runner.train.state import LoopState


@dataclass(frozen=True)
class _Trained:
    """A run's collaborators, from the moment that the model is built."""

    inputs: Inputs
    model: PreTrainedModel | PeftModel
    learner: Learner
    loop: Loop
    keeper: Keeper


def train(
    run: TrainRun,
    *,
    reporter: Reporter,
    work_path: Path,
    should_stop: Callable[[], bool],
    ask: Ask | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Trains, evaluates and stores. Resumes from the run's own checkpoints if there are any.

    Each of ``ranks`` calls this with the same run; only the first asks, stores, and knows the outcome in full.
    ``ask`` has the tuned model answer rows of the hold-out; None leaves that out.
    Raises a RunError that says what went wrong; Stopped, after saving a checkpoint, once ``should_stop()`` is true.
    """
    reporter.phase("Preparing")
    trained = _build(run, gather_inputs(run, work_path, reporter, ranks), reporter, work_path, should_stop, ranks)
    state = trained.keeper.resume()
    _settle_tokens_per_forward(trained, state, reporter)
    if state.resumed_from_step is None:
        work_out_reference(trained.loop, reporter.info)
    if state.step == 0:
        state.base_loss = _loss_before(trained)
    reporter.phase("Training")
    trained.loop.fit(state)
    reporter.phase("Evaluating")
    trained.keeper.restore_best(state)
    hold_out = _judge(trained)
    _check_gate(run, hold_out)
    trained.learner.forget()
    if trained.learner.ranks.share_layers:
        _put_together(trained)
    if not ranks.is_first:
        ranks.wait()
        return Outcome(reason="Succeeded", last_step=state.step)
    judged = Judged(hold_out, None if ask is None else _ask(run, trained, ask, reporter))
    reporter.phase("Storing")
    metrics, published = _store(run, trained, state, judged, work_path, reporter)
    trained.keeper.clear()
    ranks.wait()
    return to_outcome(state, metrics, published)


def _build(
    run: TrainRun,
    inputs: Inputs,
    reporter: Reporter,
    work_path: Path,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> _Trained:
    every = run.checkpoint.every_steps
    if len(inputs.train_rows) < ranks.count:
        raise DataInvalid(
            f"dataset.train: {len(inputs.train_rows)} rows for {ranks.count} devices; write fewer of them in compute"
        )
    plan = plan_loop(inputs.trainer, inputs.size, checkpoint_every=every, seed=run.seed, ranks=ranks.count)
    device = choose_device()
    dtype = resolve_dtype(run, device, reporter)
    shares = settle_sharing(run, inputs, plan.total_steps, device, dtype, ranks, reporter)
    ranks = replace(ranks, share_layers=shares)
    model = build_model(run, inputs, plan, device=device, dtype=dtype, reporter=reporter, ranks=ranks)
    learner = build_learner(run, inputs, plan, model, reporter, ranks)
    plateau, growth = plan_plateau(inputs.trainer), plan_growth(inputs.trainer)
    keeper = Keeper(
        place=CheckpointPlace(run.checkpoint, run.s3, work_path),
        learner=learner,
        plateau=plateau,
        growth=growth,
        identity=_identity(run, inputs, plan),
        reporter=reporter,
        pairs=find_tables(inputs.train_rows, inputs.hold_out),
        ranks=ranks,
    )
    loop = Loop(
        learner=learner,
        train_rows=inputs.train_rows,
        hold_out=inputs.hold_out,
        plan=plan,
        factor=build_factor(inputs.trainer.learning_rate_scheduler, plan_horizon(plan)),
        plateau=plateau,
        growth=growth,
        listener=keeper,
        should_stop=should_stop,
        ranks=ranks,
    )
    return _Trained(inputs, model, learner, loop, keeper)


def _settle_tokens_per_forward(trained: _Trained, state: LoopState, reporter: Reporter) -> None:
    """Where the config leaves it to us: what fits, or what did when the run began, so that it goes on as it was."""
    inputs, learner = trained.inputs, trained.learner
    sizes = plan_sizes_to_try(inputs.trainer, inputs.size, learner.model.device.type)
    if not sizes or learner.ranks.share_layers:
        return
    if state.tokens_per_forward is None:
        numbers = sum(value.numel() for value in learner.masters.parameters)
        later_bytes = numbers * (GRADIENT_BYTES + state_bytes_of(inputs.trainer.optimizer.type))
        gauge = choose_gauge(learner.model.device)
        found_here = measure_tokens_per_forward(learner, inputs.train_rows, sizes, later_bytes, gauge)
        state.tokens_per_forward = learner.ranks.least(found_here)
        found = f"{state.tokens_per_forward} tokens go through the model at a time"
        reporter.info(f"batch_size auto: {found}, by what fits into memory; {sizes[-1]} were wanted")
    learner.tokens_per_forward = state.tokens_per_forward


def _identity(run: TrainRun, inputs: Inputs, plan: LoopPlan) -> dict[str, str]:
    """As text, so that it compares the same after it was stored; how often a run saves is no part of it.

    What a state is made of is: another version's can't be read.
    """
    return {
        "config": run.config.model_dump_json(exclude_unset=True),
        "data": inputs.data.digest,
        "base": f"{run.config.base_model}@{inputs.base.revision}",
        "plan": repr(replace(plan, steps_per_checkpoint=None)),
        "dtype": run.dtype,
        "state": repr(sorted(vars(LoopState()))),
    }


def _loss_before(trained: _Trained) -> float | None:
    """What the base model makes of the hold-out, to compare with."""
    if not trained.loop.plan.evaluates or len(trained.inputs.hold_out) == 0:
        return None
    evaluation = _evaluate_hold_out(trained)
    if not math.isfinite(evaluation.loss):
        raise Diverged(
            f"the base model's own loss on the hold-out is {evaluation.loss} before any training: its weights are "
            "damaged, or too large for this number type"
        )
    trained.keeper.reporter.evaluated(0, evaluation)
    return evaluation.loss


def _judge(trained: _Trained) -> Evaluation | None:
    return _evaluate_hold_out(trained) if len(trained.inputs.hold_out) > 0 else None


def _evaluate_hold_out(trained: _Trained) -> Evaluation:
    learner = trained.learner
    learner.model.eval()
    tokens = learner.tokens_per_forward
    return evaluate(learner.forward, trained.inputs.hold_out, tokens_per_forward=tokens, ranks=learner.ranks)


def _ask(run: TrainRun, trained: _Trained, ask: Ask, reporter: Reporter) -> Sample | None:
    """As many rows as evaluations may take, and none where the config wants no evaluation, or where no process has the
    whole model.
    """
    plan, inputs = trained.loop.plan, trained.inputs
    examples = inputs.data.examples[: plan.most_evaluation_rows]
    if not plan.evaluates or not examples or trained.learner.ranks.share_layers:
        return None
    asked = Asked(
        model=trained.learner.model,
        tokenizer=inputs.tokenizer,
        config=run.config,
        context_tokens=context_length(inputs.model_config, run.config.model_parameters),
        examples=examples,
        seed=run.seed,
        one_by_one=trained.learner.forward.pads,
        should_stop=trained.loop.should_stop,
    )
    return ask_sample(ask, asked, reporter)


def _put_together(trained: _Trained) -> None:
    """What is to be stored: an adapter, or the whole model."""
    is_adapted = isinstance(trained.model, PeftModel)
    put_together(
        trained.learner.model,
        wanted=lambda weight: weight.requires_grad or not is_adapted,
        keeps=trained.learner.ranks.is_first,
    )


def _check_gate(run: TrainRun, hold_out: Evaluation | None) -> None:
    gate = run.gate
    if gate is None:
        return
    assert hold_out is not None, "gather_inputs refuses a gate without a hold-out"
    found: float = getattr(hold_out, gate.metric)
    too_high = gate.max is not None and not found <= gate.max
    too_low = gate.min is not None and not found >= gate.min
    if too_high or too_low:
        bound = f"at most {gate.max}" if too_high else f"at least {gate.min}"
        raise GateNotMet(f"{gate.metric} on the hold-out is {found:.4f}, and the gate asks for {bound}")


def _store(
    run: TrainRun,
    trained: _Trained,
    state: LoopState,
    judged: Judged,
    work_path: Path,
    reporter: Reporter,
) -> tuple[RunMetrics, Published]:
    folder = work_path / "artifact"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts = ParameterCounts(count_trainable(trained.model), trained.model.num_parameters())
    saved = save_weights(run, trained.inputs, trained.model, folder, reporter)
    metrics = to_metrics(trained.inputs, state, judged, saved, counts, trained.learner.model.device)
    save_rest(run, trained.inputs, state, metrics, saved.kind, folder, judged.sample)
    published = publish_folder(folder, run.output_uri, run.s3)
    if run.hub_repo_id is not None:
        token = read_token(run.hub_token_path)
        push_artifact(folder, run.hub_repo_id, private=run.hub_private, token=token, reporter=reporter)
    return metrics, published
