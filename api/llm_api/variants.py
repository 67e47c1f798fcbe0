"""Objects that a key such as ``type`` tells apart, as one structural object: all their keys, and rules that say which
of them belong to which type.

A structural schema has no branches, so what a branch would say is said in CEL. Makes no schema from models; that is
``structural``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_api.alternatives import INT_OR_STRING, merge_alternatives

Schema = dict[str, Any]
Path = tuple[str, ...]

RULES = "x-kubernetes-validations"
_SELF = re.compile(r"\bself\b")


@dataclass(frozen=True)
class _Variant:
    kinds: tuple[str, ...]
    """Values of the key that choose it."""
    schema: Schema


@dataclass(frozen=True)
class _Said:
    """One rule of the merged object, and the values of the key that it is about."""

    rule: str
    message: str
    field_path: str = ""

    def build(self, guard: str) -> dict[str, str]:
        validation = {"rule": f"{guard}{self.rule}", "message": self.message}
        return {**validation, "fieldPath": self.field_path} if self.field_path else validation


@dataclass
class _Merger:
    """Gathers the rules that merging makes necessary; all of them stand on the object that has the key."""

    key: str
    all_kinds: tuple[str, ...]
    kinds_of: dict[_Said, list[str]] = field(default_factory=dict)
    """Rule -> the values of the key that it is about; variants that share a rule share it here as well."""

    def merge(self, variants: Sequence[_Variant], at: Path = ()) -> Schema:
        """One object with the properties of all; ``at`` leads to it from the object that has the key."""
        keys = dict.fromkeys(key for variant in variants for key in variant.schema["properties"])
        properties = {key: self._merge_property(variants, (*at, key)) for key in keys}
        required = [key for key in keys if all(key in _required(variant) for variant in variants)]
        for variant in variants:
            self._keep_rules(variant, at)
        return {"type": "object", "properties": properties, **({"required": required} if required else {})}

    def _merge_property(self, variants: Sequence[_Variant], path: Path) -> Schema:
        name = path[-1]
        holders = [
            _Variant(variant.kinds, variant.schema["properties"][name])
            for variant in variants
            if name in variant.schema["properties"]
        ]
        merged = self._merge_schemas(holders, path)
        if "type" in merged or INT_OR_STRING in merged:  # CEL sees no other key.
            self._say_where_it_belongs(variants, holders, path)
            self._say_where_it_is_required(variants, path)
        return merged

    def _merge_schemas(self, holders: Sequence[_Variant], path: Path) -> Schema:
        if all(_same(holder.schema, holders[0].schema) for holder in holders):
            return holders[0].schema
        if all("properties" in holder.schema for holder in holders):
            return {**_heading(holders[0].schema), **self.merge(holders, path)}
        merged = merge_alternatives([holder.schema for holder in holders])
        if path != (self.key,):
            self._narrow(holders, merged, path)
        return merged

    def _say_where_it_belongs(self, variants: Sequence[_Variant], holders: Sequence[_Variant], path: Path) -> None:
        if len(holders) < len(variants):
            kinds = _kinds(holders)
            message = f"{'.'.join(path)} belongs to {self.key} {_list(kinds)} only; leave it out"
            self._add(_Said(f"{self._is(kinds)} || {_absent(path)}", message), self.all_kinds)

    def _say_where_it_is_required(self, variants: Sequence[_Variant], path: Path) -> None:
        needing = [variant for variant in variants if path[-1] in _required(variant)]
        if needing and len(needing) < len(variants):
            kinds = _kinds(needing)
            parent = "" if len(path) == 1 else f"{_absent(path[:-1])} || "
            message = f"{'.'.join(path)} is required for {self.key} {_list(kinds)}"
            self._add(_Said(f"{parent}has({_dotted(path)})", message), kinds)

    def _narrow(self, holders: Sequence[_Variant], merged: Schema, path: Path) -> None:
        """Options that not all variants have."""
        for holder in holders:
            options, every = holder.schema.get("enum"), merged.get("enum")
            if options is not None and every is not None and len(options) < len(every):
                allowed = [option for option in options if option is not None]
                message = f"{'.'.join(path)} must be {_list(allowed, 'or')} for {self.key} {_list(holder.kinds)}"
                self._add(_Said(f"{_absent(path)} || {_dotted(path)} in {_literal(allowed)}", message), holder.kinds)

    def _keep_rules(self, variant: _Variant, at: Path) -> None:
        """A variant's own rules, said of its types only."""
        for rule in variant.schema.get(RULES, ()):
            moved = _SELF.sub(_dotted(at), rule["rule"])
            there = f"{_absent(at)} || " if at else ""
            field_path = f"{''.join(f'.{part}' for part in at)}{rule.get('fieldPath', '')}"
            self._add(_Said(f"{there}({moved})", rule["message"], field_path), variant.kinds)

    def _add(self, said: _Said, kinds: Sequence[str]) -> None:
        self.kinds_of.setdefault(said, []).extend(kinds)

    def _is(self, kinds: Sequence[str]) -> str:
        return f"self.{self.key} in {_literal(kinds)}"

    def build_rules(self) -> list[dict[str, str]]:
        """Each rule once, behind a guard where it isn't about all."""
        guards = {said: self._guard(kinds) for said, kinds in self.kinds_of.items()}
        return [said.build(guard) for said, guard in guards.items()]

    def _guard(self, kinds: Sequence[str]) -> str:
        return "" if set(kinds) >= set(self.all_kinds) else f"!({self._is(kinds)}) || "


def merge_variants(schemas: Sequence[Schema], key: str) -> Schema:
    """One object for all of ``schemas``, each of which lists its own values of ``key`` as an enum."""
    variants = [_Variant(tuple(schema["properties"][key]["enum"]), schema) for schema in schemas]
    merger = _Merger(key, _kinds(variants))
    merged = merger.merge(variants)
    required = [key, *(name for name in merged.get("required", ()) if name != key)]
    rules = merger.build_rules()
    return {**_heading(schemas[0]), **merged, "required": required, **({RULES: rules} if rules else {})}


def _required(variant: _Variant) -> list[str]:
    return list(variant.schema.get("required", ()))


def _kinds(variants: Sequence[_Variant]) -> tuple[str, ...]:
    return tuple(kind for variant in variants for kind in variant.kinds)


def _heading(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("description", "nullable") if key in schema}


def _same(one: Schema, other: Schema) -> bool:
    """Equal but for what is said about it."""
    return {**one, "description": ""} == {**other, "description": ""}


def _dotted(path: Path) -> str:
    return ".".join(("self", *path))


def _absent(path: Path) -> str:
    return " || ".join(f"!has({_dotted(path[:length])})" for length in range(1, len(path) + 1))


def _literal(options: Sequence[object]) -> str:
    return "[" + ", ".join(f"'{option}'" for option in options) + "]"


def _list(options: Sequence[object], word: str = "and") -> str:
    *most, last = map(str, options)
    return f"{', '.join(most)} {word} {last}" if most else last
