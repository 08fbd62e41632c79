"""Tool calls in a message, in one form: that of OpenAI, which chat templates take.

In this form a call is `{"type": "function", "function": {"name": …, "arguments": {…}}}`.
"""

from __future__ import annotations

from typing import Any

from rung.data.field_values import parse_nested


def has_function_call(message: dict[str, Any]) -> bool:
    """Whether the message has a call in the field `function_call`, OpenAI's first form."""
    call = message.get("function_call")
    return isinstance(call, dict) and "name" in call and not message.get("tool_calls")


def read_tool_calls(value: Any) -> list[dict[str, Any]] | None:
    """Convert calls of any known form. Arguments that are JSON text become objects.

    Args:
        value: One call or a list of them, also as JSON text.

    Returns:
        The calls; None if the value is not tool calls.
    """
    calls = parse_nested(value)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return None
    converted = [_convert(call) for call in calls]
    return None if None in converted else [call for call in converted if call is not None]


def _convert(given: dict[str, Any]) -> dict[str, Any] | None:
    call = {name: value for name, value in given.items() if value is not None}
    if not isinstance(function := call.get("function"), dict):
        outer = {name: value for name, value in call.items() if name in ("id", "type")}
        function = {name: value for name, value in call.items() if name not in outer}
        call = {"type": "function", **outer}
    if "name" not in function:
        return None
    if isinstance(function.get("arguments"), str):
        arguments = parse_nested(function["arguments"])
        if isinstance(arguments, dict | list):
            function = {**function, "arguments": arguments}
    return {**call, "function": function}
