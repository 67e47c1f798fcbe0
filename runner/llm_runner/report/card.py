"""The model card: README.md of an artifact, for people who find it later and for the Hugging Face hub.

Says what the model is, what it was trained on, how well it does and how to load it. Reads no files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData

from llm_runner.report.curve import CURVE_NAME
from llm_runner.report.markdown import build_block, build_table
from llm_runner.report.metrics_file import METRICS_NAME, AnyMetrics, RunMetrics, UntrainedMetrics, to_flat_metrics
from llm_runner.report.plot import PLOT_NAME
from llm_runner.report.quantity import describe_number

CARD_NAME = "README.md"
EXAMPLES_HEADING = "## Examples from the hold-out"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ADAPTER_FOR = re.compile(r"^(\S+) adapter for `", re.MULTILINE)
HUB_DATASET = re.compile(r"hf://datasets/([^/@]+/[^/@]+)")


@dataclass(frozen=True)
class CardExample:
    """One row of the hold-out."""

    prompt: str
    """As the model gets it."""
    target: str
    """What the data says."""
    answer: str | None = None
    """What the tuned model says; None where it was not asked, or could not answer."""
    error: str | None = None
    """Why it could not answer."""


@dataclass(frozen=True)
class CardInfo:
    """What a card tells besides the metrics."""

    name: str
    base_model: str
    """Hub id, path or address, as the config has it."""
    kind: Literal["adapter", "merged", "full", "prompt"]
    """An adapter for the base model; the base model with the adapter merged into it; a full fine-tune; a prompt for
    the base model as it is."""
    method: str
    """For people: ``LoRA``, ``AdaLoRA``, ``IA3``, ``full fine-tuning`` or ``prompting``."""
    data_uris: Sequence[str]
    data_digest: str
    """SHA-256."""
    preference: str | None = None
    """What was made of pairs of answers: ``DPO``, ``IPO``, ``KTO`` or ``ORPO``; None where answers were taught."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of the resolved config and their values."""
    base_revision: str | None = None
    base_licence: str | None = None
    examples: Sequence[CardExample] = ()
    max_new_tokens: int = 64


def build_card(info: CardInfo, metrics: RunMetrics) -> str:
    sections = [
        f"---\n{_build_front_matter(info)}\n---",
        f"# {info.name}\n\n{_describe(info)}",
        _describe_results(info, metrics),
        _describe_data(info, metrics),
        f"## Use\n\n{_build_snippet(info)}",
        *([_describe_examples(info.examples)] if info.examples else []),
        _describe_settings(info),
    ]
    return "\n\n".join(sections) + "\n"


def build_untrained_card(info: CardInfo, metrics: UntrainedMetrics) -> str:
    """Of a run that trains nothing: there are no weights to load, and no curve."""
    figures = [(name, describe_number(value)) for name, value in to_flat_metrics(metrics).items()]
    sections = [
        f"# {info.name}",
        f"A prompt for `{info.base_model}` as it is, measured by llm-operator. Nothing was trained, so there are no "
        "weights here. An LLMInference that names this folder as its model asks in the same way.",
        f"## Results\n\n{build_table(('Metric', 'Value'), figures)}\n\nThe same figures stand in `{METRICS_NAME}`.",
        _describe_data(info, metrics),
        *([_describe_examples(info.examples)] if info.examples else []),
        _describe_settings(info),
    ]
    return "\n\n".join(sections) + "\n"


def to_merged_card(card: str) -> str:
    """The card of an adapter as that of the model which it is merged into."""
    adapter, merged = ([*build_imports(kind), ""] for kind in ("adapter", "merged"))
    changes = {
        "library_name: peft": "library_name: transformers",
        "base_model_relation: adapter": "base_model_relation: finetune",
        "\n".join(adapter): "\n".join(merged),
        "model = AutoPeftModelForCausalLM.": "model = AutoModelForCausalLM.",
    }
    for before, after in changes.items():
        card = card.replace(before, after, 1)
    return ADAPTER_FOR.sub(r"Model with a \1 adapter merged into `", card, count=1)


def build_imports(kind: str) -> list[str]:
    if kind == "adapter":
        return ["from peft import AutoPeftModelForCausalLM", "from transformers import AutoTokenizer"]
    return ["from transformers import AutoModelForCausalLM, AutoTokenizer"]


def _build_front_matter(info: CardInfo) -> str:
    """The hub refuses a base_model or a data set that is not an id of its own, so others are left out."""
    on_hub = HUB_ID.fullmatch(info.base_model) is not None
    datasets = sorted({found[1] for uri in info.data_uris if (found := HUB_DATASET.match(uri))})
    data = ModelCardData(
        base_model=info.base_model if on_hub else None,
        library_name="peft" if info.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        license=info.base_licence,
        datasets=datasets if datasets else None,
        tags=_build_tags(info),
    )
    if on_hub:
        data["base_model_relation"] = "adapter" if info.kind == "adapter" else "finetune"
    return str(data.to_yaml(line_break="\n")).strip()


def _build_tags(info: CardInfo) -> list[str]:
    kind = "full-fine-tuning" if info.kind == "full" else info.method.lower()
    return ["llm-operator", kind, *([] if info.preference is None else [info.preference.lower()])]


def _describe(info: CardInfo) -> str:
    what = {
        "adapter": f"{info.method} adapter for",
        "merged": f"Model with a {info.method} adapter merged into",
        "full": "Full fine-tune of",
    }[info.kind]
    revision = "" if info.base_revision is None else f" at revision `{info.base_revision}`"
    licence = (
        "The base model's licence is not known here; look it up before you pass this model on."
        if info.base_licence is None
        else f"The base model's licence is `{info.base_licence}`."
    )
    taught = "" if info.preference is None else f" by {info.preference} from pairs of a better and a worse answer"
    return f"{what} `{info.base_model}`{revision}, made by llm-operator{taught}. {licence}"


def _describe_results(info: CardInfo, metrics: RunMetrics) -> str:
    rows = [(name, describe_number(value)) for name, value in to_flat_metrics(metrics).items()]
    return (
        f"## Results\n\n![Loss by optimizer step]({PLOT_NAME})\n\n{build_table(('Metric', 'Value'), rows)}\n\n"
        f"{_describe_losses(info)} The same figures stand in `{METRICS_NAME}`, those of each step in "
        f"`{CURVE_NAME}`."
    )


def _describe_settings(info: CardInfo) -> str:
    return f"## Settings\n\n{build_table(('Setting', 'Value'), info.settings.items())}"


def _describe_losses(info: CardInfo) -> str:
    if info.preference is None:
        return "Losses are nats per target token."
    return (
        f"Losses are {info.preference}'s own, in the mean of pairs; perplexity and next-token accuracy are those of "
        "the better answers."
    )


def _describe_data(info: CardInfo, metrics: AnyMetrics) -> str:
    files = "\n".join(f"- `{_public_name(uri)}`" for uri in info.data_uris)
    rows, use = metrics.rows, "to choose examples from" if info.kind == "prompt" else "trained on"
    return (
        f"## Data\n\n{files}\n\nSHA-256 of the data: `{info.data_digest}`\n\n"
        f"{rows.rows_read} rows were read: {rows.rows_train} {use}, {rows.rows_validation} for validation, "
        f"{rows.rows_test} for the test; {rows.rows_dropped} were dropped and {rows.rows_truncated} cut to length."
    )


def _public_name(uri: str) -> str:
    """An address as it is; of a path on somebody's machine the file's name only."""
    return uri if "://" in uri else Path(uri).name


def _build_snippet(info: CardInfo) -> str:
    """Python that loads this artifact and answers the first example."""
    loader = "AutoPeftModelForCausalLM" if info.kind == "adapter" else "AutoModelForCausalLM"
    prompt = info.examples[0].prompt if info.examples else "Your prompt, in the form that it had in training"
    return build_block(
        "\n".join(
            [
                *build_imports(info.kind),
                "",
                'folder = "."  # where this README.md lies',
                f'model = {loader}.from_pretrained(folder, dtype="auto")',
                "tokenizer = AutoTokenizer.from_pretrained(folder)",
                f"prompt = {json.dumps(prompt, ensure_ascii=False)}",
                'inputs = tokenizer(prompt, return_tensors="pt")',
                f"tokens = model.generate(**inputs, max_new_tokens={info.max_new_tokens})",
                'answer = tokens[0, inputs["input_ids"].shape[1] :]',
                "print(tokenizer.decode(answer, skip_special_tokens=True))",
            ]
        ),
        "python",
    )


def _describe_examples(examples: Sequence[CardExample]) -> str:
    parts = [EXAMPLES_HEADING]
    for example in examples:
        parts.append(f"Prompt:\n\n{build_block(example.prompt)}\n\nWanted:\n\n{build_block(example.target)}")
        if example.answer is not None:
            parts.append(f"Answered:\n\n{build_block(example.answer)}")
        elif example.error is not None:
            parts.append(f"Not answered:\n\n{build_block(example.error)}")
    return "\n\n".join(parts)
