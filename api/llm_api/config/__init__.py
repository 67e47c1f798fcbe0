"""The LLM config: one module for each section of its page, and the whole in ``llm``."""

from typing import Any

from llm_api.config.adapter import AdaLoraAdapter, AnyAdapter, EvaConfig, Ia3Adapter, LoraAdapter
from llm_api.config.adapter_base import Adapter, Postprocessor
from llm_api.config.adapter_product import LohaAdapter, LokrAdapter, VeraAdapter
from llm_api.config.adapter_rotation import BoftAdapter, OftAdapter
from llm_api.config.features import (
    CategoryDecoder,
    CategoryOutputFeature,
    InputFeature,
    Match,
    OutputFeature,
    TextOutputFeature,
)
from llm_api.config.generation import Generation
from llm_api.config.llm import LLMConfig
from llm_api.config.model_parameters import ModelParameters, RopeScaling
from llm_api.config.optimizer import Optimizer
from llm_api.config.preference import DpoTrainer, KtoTrainer, OrpoTrainer, PreferenceTrainer
from llm_api.config.preprocessing import Preprocessing
from llm_api.config.prompt import Prompt, Retrieval
from llm_api.config.quantization import Quantization
from llm_api.config.schedule import GradientClipping, LearningRateScheduler
from llm_api.config.shorthand import expand_shorthand
from llm_api.config.split import DatetimeSplit, FixedSplit, HashSplit, RandomSplit, Split, StratifySplit
from llm_api.config.template import Template, TemplateError, parse_template
from llm_api.config.trainer import FinetuneTrainer, NoneTrainer, Trainer
from llm_api.config.tuning import TuningTrainer
from llm_api.issues import InvalidConfig, Issue, load


def load_config(value: Any, *, prefix: str = "") -> LLMConfig:
    """A bare config from a mapping, as YAML gives it, shorthand included. Raises InvalidConfig with every issue."""
    return load(LLMConfig, expand_shorthand(value), prefix=prefix)


__all__ = [
    "AdaLoraAdapter", "Adapter", "AnyAdapter", "BoftAdapter", "CategoryDecoder", "CategoryOutputFeature",
    "DatetimeSplit", "DpoTrainer", "EvaConfig", "FinetuneTrainer", "FixedSplit", "Generation", "GradientClipping",
    "HashSplit", "Ia3Adapter", "InputFeature", "InvalidConfig", "Issue", "KtoTrainer", "LLMConfig",
    "LearningRateScheduler", "LohaAdapter", "LokrAdapter", "LoraAdapter", "Match", "ModelParameters", "NoneTrainer",
    "OftAdapter", "Optimizer", "OrpoTrainer", "OutputFeature", "Postprocessor", "PreferenceTrainer", "Preprocessing",
    "Prompt", "Quantization", "RandomSplit", "Retrieval", "RopeScaling", "Split", "StratifySplit", "Template",
    "TemplateError", "TextOutputFeature", "Trainer", "TuningTrainer", "VeraAdapter", "load_config", "parse_template",
]  # fmt: skip
