"""Every key of the LLM config as the models have it: meaning, default, what it may be, and the types that it goes with.

Reads the models only; which test proves a key is in ``docs_proofs``, how it looks on a page in ``docs``.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic.fields import FieldInfo

from llm_api.config.llm import LLMConfig
from llm_api.docs_values import describe_default, describe_values
from llm_api.docstrings import describe_fields
from llm_api.model import Model, models_in

Kinds = tuple[str, ...]

DERIVED = {
    "adapter.alpha": "`2 * r`",
    "adapter.feedforward_modules": "the second layer of the MLP, where it is among `target_modules`",
    "adapter.oft_block_size": "`32`, or what `r` leaves",
    "adapter.target_modules": "found in the model",
    "adapter.total_step": "the run's own number of steps",
    "generation.bos_token_id": "the tokenizer's",
    "generation.do_sample": "`true`; `false` where contrastive search or groups of beams are written",
    "generation.eos_token_id": "the tokenizer's",
    "generation.max_length": "no bound of its own",
    "generation.max_new_tokens": "the output's `max_sequence_length`, else what `preprocessing` or the model leaves; "
    "for a category 32",
    "generation.min_length": "no bound of its own",
    "generation.pad_token_id": "the tokenizer's",
    "preprocessing.split.column": "the output's column",
    "quantization.bnb_4bit_compute_dtype": "`bfloat16` where the machine computes it, else `float32`",
    "trainer.effective_batch_size": "`batch_size * gradient_accumulation_steps`",
    "trainer.validation_metric": "`loss`",
}
"""What is worked out where a key isn't written, or is null."""


@dataclass(frozen=True)
class Key:
    """One key, or the same key of several types."""

    path: str
    """As written, without places in lists: trainer.optimizer.betas."""
    kinds: Kinds
    """The types that it goes with; empty where its section has none to choose from."""
    meaning: str
    default: str
    values: str
    is_section: bool

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Section:
    """The keys that stand side by side."""

    path: str
    meaning: str
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class _Variant:
    """One model that may stand in a section's place, and the types that say so."""

    kinds: Kinds
    model: type[Model]


def find_sections(model: type[Model] = LLMConfig) -> list[Section]:
    """All sections, each before those inside it."""
    return list(_walk("", (_Variant((), model),)))


def find_keys(model: type[Model] = LLMConfig) -> list[Key]:
    """All keys that say something themselves, rather than hold others."""
    return [key for section in find_sections(model) for key in section.keys if not key.is_section]


def _walk(path: str, variants: Sequence[_Variant]) -> Iterator[Section]:
    keys = [key for variant in variants for key in _keys_of(path, variant, variants)]
    yield Section(path, " ".join(_summaries(variants)), tuple(_merge(keys)))
    inner: dict[str, list[_Variant]] = {}
    for variant in variants:
        for name, field in variant.model.model_fields.items():
            inner.setdefault(name, []).extend(_variants_of(field, variant.kinds))
    for name, found in inner.items():
        if found:
            yield from _walk(_join(path, name), _merge_variants(found))


def _keys_of(path: str, variant: _Variant, variants: Sequence[_Variant]) -> Iterator[Key]:
    meanings = describe_fields(variant.model)
    properties = _properties(variant.model)
    for name, field in variant.model.model_fields.items():
        own = _join(path, name)
        is_section = bool(models_in(field.annotation))
        yield Key(
            path=own,
            kinds=variant.kinds if len(variants) > 1 else (),
            meaning=" ".join(meanings[name].split()),
            default=_default(own, name, field, variant.model, is_section),
            values="" if is_section else describe_values(properties[name], _derives(own, field)),
            is_section=is_section,
        )


def _properties(model: type[Model]) -> dict[str, Any]:
    """The schema of each field; a section that takes null as a value of its own is one of two branches."""
    schema = model.model_json_schema()
    found: dict[str, Any] = next(one for one in (schema, *schema.get("anyOf", ())) if "properties" in one)["properties"]
    return found


def _default(path: str, name: str, field: FieldInfo, model: type[Model], is_section: bool) -> str:
    if field.is_required():
        return "required"
    if is_section:
        return _section_default(field.default)
    if name in model.derived or _derives(path, field):
        return DERIVED[path]
    return describe_default(field.default)


def _section_default(default: Any) -> str:
    if default is None:
        return "none"
    kind = getattr(default, "type", None)
    return "the defaults there" if kind is None else f"`type: {kind}`"


def _derives(path: str, field: FieldInfo) -> bool:
    """Whether leaving the key out, or null, is a value that is worked out."""
    return path in DERIVED and not field.is_required() and field.default in (None, "auto")


def _merge(keys: Sequence[Key]) -> list[Key]:
    """Keys that are the same but for their types as one; the one that chooses the type first, with all it may be."""
    types = [key for key in keys if key.name == "type"]
    merged = [_merge_types(types)] if types else []
    for name in dict.fromkeys(key.name for key in keys if key.name != "type"):
        merged += _merge_same([key for key in keys if key.name == name])
    return merged


def _merge_same(keys: Sequence[Key]) -> list[Key]:
    found: dict[Key, Kinds] = {}
    for key in keys:
        bare = replace(key, kinds=())
        found[bare] = (*found.get(bare, ()), *key.kinds)
    return [replace(bare, kinds=kinds) for bare, kinds in found.items()]


def _merge_types(keys: Sequence[Key]) -> Key:
    default = next((key.default for key in keys if key.default != "required"), "required")
    return replace(keys[0], kinds=(), default=default, values=", ".join(key.values for key in keys))


def _variants_of(field: FieldInfo, kinds: Kinds) -> list[_Variant]:
    """The models of a field: by their own types where there is a choice, else by those of what holds them."""
    models = models_in(field.annotation)
    if len(models) == 1:
        return [_Variant(kinds, models[0])]
    return [_Variant(get_args(model.model_fields["type"].annotation), model) for model in models]


def _merge_variants(variants: Sequence[_Variant]) -> list[_Variant]:
    kinds: dict[type[Model], Kinds] = {}
    for variant in variants:
        kinds[variant.model] = (*kinds.get(variant.model, ()), *variant.kinds)
    return [_Variant(tuple(dict.fromkeys(found)), model) for model, found in kinds.items()]


def _summaries(variants: Sequence[_Variant]) -> list[str]:
    """What the models say of themselves, each after its types where there is a choice."""
    if len(variants) == 1:
        return [_summary(variants[0].model)]
    return [f"{', '.join(f'`{kind}`' for kind in one.kinds)}: {_summary(one.model)}" for one in variants]


def _summary(model: type[Any]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
