"""Amounts of memory, tokens and time as people write them."""

from __future__ import annotations

import pytest

from rung.formats.amounts import MAX_AMOUNT, MIN_BYTES, Budget, parse_budget, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        (" 512 mb ", 512 * 10**6),
        ("6GiB", 6 * 2**30),
        ("1.5G", 1_500_000_000),
        ("2000000", 2_000_000),
        ("1000TB", MAX_AMOUNT),
        ("1000T", MAX_AMOUNT),
        ("1MB", MIN_BYTES),
    ],
)
def test_a_size_in_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8 apples", "write a size such as 8GB or 512MB"),
        ("", "write a size such as 8GB or 512MB"),
        ("8", "that is 8 bytes; write a size such as 8GB"),
        ("1001TB", "that is more than 1,000 TB"),
    ],
)
def test_what_is_not_a_size_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("300k", Budget(300_000, "tokens")),
        ("2M tokens", Budget(2_000_000, "tokens")),
        ("1_000_000", Budget(1_000_000, "tokens")),
        ("1e6 tokens", Budget(1_000_000, "tokens")),
        ("30min", Budget(1800, "seconds")),
        ("1.5 h", Budget(5400, "seconds")),
        ("45 seconds", Budget(45, "seconds")),
        ("5000", Budget(5000, "tokens")),
        ("1e15", Budget(10**15, "tokens")),
        ("90M", Budget(90_000_000, "tokens")),
        ("90 m tokens", Budget(90_000_000, "tokens")),
        ("90 s", Budget(90, "seconds")),
        ("90 mins", Budget(5400, "seconds")),
        ("2 hrs", Budget(7200, "seconds")),
    ],
)
def test_a_budget_is_tokens_or_seconds(text: str, budget: Budget) -> None:
    parsed = parse_budget(text)
    assert parsed == budget
    assert (parsed.amount, parsed.unit) == budget
    assert parse_budget(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("much", "write a number of tokens such as 300k, or a time such as 30min"),
        ("90m", "'m' may be minutes or millions; write 90min, or 90M tokens"),
        ("0", "that is nothing"),
        ("0 h", "that is nothing"),
        ("1e308k", "that is more than 1e\\+15 tokens"),
        ("1e308h", "that is more than 1e\\+15 seconds"),
    ],
)
def test_what_is_not_a_budget_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_budget(text)
