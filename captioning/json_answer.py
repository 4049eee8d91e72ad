"""The one JSON object in a model's answer: nothing in it is mended, and what is wrong can be told to the model."""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

ANSWER_CHARACTERS = 100_000  # an answer's JSON has a few thousand
OBJECTS = 50  # places where an answer's object is sought

M = TypeVar("M", bound=BaseModel)


def read(text: str, model: type[M]) -> M:
    """Code fences and words around the object are skipped.

    Raises ValueError that says what is wrong, in words that a model can be told to ask again.
    """
    if len(text) > ANSWER_CHARACTERS:
        raise ValueError(f"the answer has {len(text)} characters, more than {ANSWER_CHARACTERS}")
    found: list[M] = []
    wrong = ""
    place, tried = text.find("{"), 0
    decoder = json.JSONDecoder(object_pairs_hook=_distinct)
    while place >= 0 and tried < OBJECTS:
        tried += 1
        try:
            value, end = decoder.raw_decode(text, place)
        except RecursionError:
            wrong = wrong or "the JSON object is nested too deeply"
            break
        except json.JSONDecodeError as error:
            wrong = wrong or _where(error, text)
            end = place + 1
        except ValueError as error:  # _distinct's
            wrong = wrong or str(error)
            end = place + 1
        else:
            try:
                found.append(model.model_validate(value))
            except ValidationError as error:
                wrong = wrong or _explained(error, model)
        place = text.find("{", end)
    if not found:
        raise ValueError(wrong or "the answer has no JSON object")
    if any(other != found[0] for other in found):
        raise ValueError(f"the answer has {len(found)} JSON objects that differ; give one")
    return found[0]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the JSON object has the field {twice[:40]!r} twice")
    return made


def _where(error: json.JSONDecodeError, text: str) -> str:
    if error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip("` \n")):
        return "the JSON object is not finished: the answer ends within it"
    near = text[max(0, error.pos - 20) : error.pos + 20]
    return f"the JSON object is not valid: {error.msg} at line {error.lineno}, column {error.colno}, near {near!r}"


def _explained(error: ValidationError, model: type[BaseModel]) -> str:
    said = []
    for item in error.errors(include_url=False, include_input=False)[:5]:
        field = ".".join(str(part) for part in item["loc"]) or "the answer"
        known = f" (known: {', '.join(_siblings(model, item['loc']))})" if item["type"] == "extra_forbidden" else ""
        said.append(f"{field}: {item['msg'].removeprefix('Value error, ')}{known}")
    return "the JSON object does not have the fields asked for: " + "; ".join(said)


def _siblings(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Fields of the object that the last of `where` lies in."""
    for part in where[:-1]:
        if isinstance(part, str):
            model = next(kind for kind in get_args(model.model_fields[part].annotation) if kind is not Ellipsis)
    return list(model.model_fields)
