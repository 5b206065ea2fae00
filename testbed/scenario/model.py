"""What every model of the scenario language is made of: strictness, forms, names of QEMU's.

A form is a value that may be written in several ways; the validator picks the way by what is
written, so that an error speaks of that one alone. No model knows of files or lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from .units import INT_MAX, shown

SideName = Literal["source", "destination"]
Sides = Literal["source", "destination", "both"]
Positive = Annotated[int, Field(ge=1, le=INT_MAX)]
Natural = Annotated[int, Field(ge=0, le=INT_MAX)]
Signed = Annotated[int, Field(ge=-INT_MAX, le=INT_MAX)]
KEYS_LISTED_MAX = 12
"""More words than these are no help in a message."""
UNSAID = "*unsaid*"
"""An `error` that a scenario does not speak of; null speaks: no error."""


class Model(BaseModel):
    """All of the language is strict: no unknown keys, no guessed types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="wrap")
    @classmethod
    def _say_which_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Only here is it known which keys a wrong one could have been."""
        try:
            return handler(value)
        except ValidationError as error:
            known = cls.keys()
            details = [_with_hint(each, known) for each in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, details) from error

    @model_serializer(mode="wrap")
    def _only_what_is_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what has neither a value nor a default: null is not how to write that."""
        unsaid = {
            key
            for name, field in type(self).model_fields.items()
            if field.default in (None, UNSAID) and getattr(self, name) == field.default
            for key in (name, field.alias)
        }
        return {key: value for key, value in handler(self).items() if key not in unsaid}

    @classmethod
    def keys(cls) -> list[str]:
        """The keys of a mapping in the file."""
        return [field.alias or name for name, field in cls.model_fields.items()]


def _with_hint(finding: Mapping[str, Any], known: list[str]) -> InitErrorDetails:
    kind, text, at = finding["type"], finding["msg"], finding["loc"]
    if kind == "extra_forbidden" and len(at) == 1:
        kind, text = "unknown_key", f"unknown key `{at[0]}`{did_you_mean(str(at[0]), known)}"
    elif kind == "invalid_key" and len(at) == 1:
        kind, text = "unknown_key", f"expected a word as a key, got {shown(at[0])}"
    context = {**finding.get("ctx", {}), "text": text}
    return InitErrorDetails(
        type=PydanticCustomError(kind, "{text}", context), loc=at, input=finding["input"]
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or which words there are, or nothing where they are too many."""
    words = list(known)
    close = get_close_matches(word.lower(), [each.lower() for each in words], n=1, cutoff=0.65)
    if close:
        return f"; did you mean `{next(each for each in words if each.lower() == close[0])}`?"
    if not words or len(words) > KEYS_LISTED_MAX:
        return ""
    return f"; there {'are' if len(words) > 1 else 'is'} {', '.join(f'`{each}`' for each in words)}"


def keyed(table: Mapping[str, type[Model]], what: str) -> BeforeValidator:
    """A form that is told by the first key of `table` that its mapping has."""

    def pick(value: Any) -> Any:
        if isinstance(value, Model):
            return value
        if isinstance(value, dict):
            names = [name for name in table if name in value]
            if len({table[name] for name in names}) > 1:
                raise ValueError(f"say which: {_choice(names)}")
            if names:
                return table[names[0]].model_validate(value)
            for key in value:
                if hint := did_you_mean(str(key), table).partition("; did")[2]:
                    raise ValueError(f"unknown key `{key}`; did{hint}")
        raise ValueError(f"expected {what}: a mapping with one of {', '.join(table)}{got(value)}")

    return BeforeValidator(pick)


def _choice(names: list[str]) -> str:
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} or {last}"


def by_type(expected: str, forms: Mapping[type, Any]) -> BeforeValidator:
    """A form that is told by the type of what is written."""
    adapters: dict[type, TypeAdapter[Any]] = {}

    def pick(value: Any) -> Any:
        form = forms.get(type(value))
        if isinstance(value, Model):
            return value
        if form is None:
            raise ValueError(f"expected {expected}{got(value)}")
        if type(value) not in adapters:
            adapters[type(value)] = TypeAdapter(form, config=_config(form))
        return adapters[type(value)].validate_python(value)

    return BeforeValidator(pick)


def _config(form: Any) -> ConfigDict | None:
    is_model = isinstance(form, type) and issubclass(form, BaseModel)
    return None if is_model else ConfigDict(strict=True)


def one_of(words: Iterable[str], what: str) -> Callable[[str], str]:
    """A check that a text is one of QEMU's words."""
    known = list(words)

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"{shown(value)} is no {what}{did_you_mean(value, known)}")
        return value

    return check


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """A check that the whole of a text is like `pattern`."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {what}{got(value)}")
        return value

    return check


def got(value: Any) -> str:
    """`, got ...`: how every sentence about a wrong value ends."""
    return f", got {shown(value)}"


def listed(value: Any) -> Any:
    """One is a list of one."""
    return value if isinstance(value, list) else [value]
