"""Messages of a row, checked: each field that a chat template may write is taken, or the row is a bad one."""

from __future__ import annotations

from typing import Any

from rlhf_api.bounded import MAX_DEPTH
from rlhf_trainer.data.columns import Columns, Malformed, parse_json, typed
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import CALLS, THOUGHTS, Message, Messages, Tool

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""What ShareGPT's `from` calls the roles of chat templates; others keep their name."""
TEXTS = (*THOUGHTS, "name", "tool_call_id")
"""Fields of a message that are texts, beside its content."""
LEARNED = {"weight": "1 or 0", "train": "true or false"}
"""Fields that say whether a turn is learned, and what they hold."""
FIELDS = {"role", "content", "from", "value", *TEXTS, *CALLS, *LEARNED}


def messages_of(value: Any, column: str) -> Messages:
    """Messages, each with a role, and a text or calls of tools."""
    value = typed(value)
    if not isinstance(value, list) or not value:
        raise Malformed(column, describe(value), 'a list of {"role": ..., "content": ...}')
    return tuple(_message(entry, f"{column}[{index}]") for index, entry in enumerate(value))


def plain_answer(message: Message, column: str) -> str:
    """The text of an answer that is compared or ranked: it has no other field, as texts alone are encoded there."""
    for key, value in message.items():
        if key not in ("role", "content") and value != "":
            field = " or ".join(LEARNED) if key == "learned" else key
            raise Malformed(f"{column}.{field}", describe(value), "an answer of text alone")
    return message["content"]


def tools_of(row: Columns) -> tuple[Tool, ...]:
    """The tools that a row's assistant may call: a list of objects, or its JSON text; none where there is none."""
    return tuple(_objects(row["tools"], "tools")) if row.get("tools") else ()


def unknown_fields(row: Columns) -> set[str]:
    """Fields of a row's messages that make nothing, as `column[].field`."""
    return {
        f"{column}[].{key}"
        for column, value in row.items()
        if isinstance(value, list)
        for entry in value
        if isinstance(entry, dict) and ("role" in entry or "from" in entry)
        for key in entry.keys() - FIELDS
        if entry[key] not in (None, "", [], {})
    }


def _message(entry: Any, path: str) -> Message:
    if not isinstance(entry, dict):
        raise Malformed(path, describe(entry), "an object with role and content")
    entry = _from_sharegpt(entry, path)
    role = entry.get("role")
    if not isinstance(role, str) or not role:
        raise Malformed(f"{path}.role", describe(role), "system, user or assistant")
    fields: dict[str, Any] = {}
    for key in TEXTS:
        if entry.get(key) is not None:
            fields[key] = _text(entry[key], f"{path}.{key}")
    if entry.get("tool_calls"):
        fields["tool_calls"] = _objects(entry["tool_calls"], f"{path}.tool_calls")
    if entry.get("function_call"):
        (fields["function_call"],) = _objects([entry["function_call"]], f"{path}.function_call")
    for key in (*THOUGHTS, *CALLS):
        if role != "assistant" and fields.get(key):
            raise Malformed(f"{path}.{key}", f"one of the {role}'s", "an assistant's")
    if not _is_learned(entry, role, path):
        fields["learned"] = False
    calls = any(key in fields for key in CALLS)
    content = "" if calls and entry.get("content") is None else _content(entry.get("content"), f"{path}.content")
    return {"role": role, "content": content, **fields}  # type: ignore[typeddict-item]


def _is_learned(entry: dict[str, Any], role: str, path: str) -> bool:
    """Whether a message's `weight` and `train` let it be learned; only an assistant's can be."""
    flags = {key: entry[key] for key in LEARNED if entry.get(key) is not None}
    for key, value in flags.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise Malformed(f"{path}.{key}", describe(value), LEARNED[key])
        if value and role != "assistant":
            raise Malformed(f"{path}.{key}", describe(value), "an assistant's message: no other is learned")
    return role != "assistant" or all(flags.values())


def _objects(value: Any, path: str) -> list[dict[str, Any]]:
    """A list of objects, or its JSON text; fields without a value are left out, as Parquet gives every object all."""
    expected = f"a list of objects, or its JSON text, nested at most {MAX_DEPTH} deep"
    if isinstance(value, str):
        try:
            parsed = parse_json(str(value))
        except ValueError as error:
            raise Malformed(path, describe(value), expected) from error
    else:
        parsed = value
    if not isinstance(parsed, list) or not all(isinstance(entry, dict) for entry in parsed):
        raise Malformed(path, describe(value), expected)
    return [_without_nulls(entry) for entry in parsed]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _from_sharegpt(entry: dict[str, Any], path: str) -> dict[str, Any]:
    """A turn of ShareGPT (`from`, `value`) under the names of a message."""
    if "from" not in entry or "role" in entry:
        return entry
    speaker, value = entry["from"], entry.get("value")
    role = SHAREGPT_ROLES.get(speaker.lower(), speaker.lower()) if isinstance(speaker, str) else speaker
    rest = {name: field for name, field in entry.items() if name not in ("from", "value")}
    if role != "function_call":
        return {**rest, "role": role, "content": value}
    text = value.strip() if isinstance(value, str) else ""
    calls = _objects(text if text.startswith("[") else f"[{text}]", f"{path}.value")
    calls = [{"type": "function", "function": call} for call in calls]
    return {**rest, "role": "assistant", "content": None, "tool_calls": calls}


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise Malformed(path, describe(value), "a string")
    return value


def _content(value: Any, path: str) -> str:
    """A message's text: a string, or a list of text parts."""
    if isinstance(value, list) and value:
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(value):
            return "".join(texts)
    return _text(value, path)
