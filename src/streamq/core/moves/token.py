"""Tokens: the bucket of one rate, filled by the server's clock and emptied by claims. The one move of what is no task.

One conditional update takes as many tokens as there are, up to what is wanted: claimers that race are served one after
the other by the server, so the rate holds however many there are.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final, TypedDict

from streamq.core.limits import Rate
from streamq.core.moves.fence import after_ms

KEPT_S: Final = 86_400.0
"""A bucket that nobody took from for so long after it was full again is removed: a new one is full too."""


class Bucket(TypedDict, total=False):
    """A bucket as it is stored in the meta collection. `granted` is what the last taker got."""

    _id: str
    tokens: float
    filled_at: datetime
    granted: int


def update(rate: Rate, wanted: int) -> list[dict[str, Any]]:
    """Build the update that takes up to `wanted` tokens; it is also an upsert: a new bucket is full."""
    gained = {"$multiply": [{"$subtract": ["$$NOW", "$filled_at"]}, rate.a_second / 1000]}
    filled = {"$cond": [{"$isNumber": "$tokens"}, {"$add": ["$tokens", {"$max": [0, gained]}]}, rate.most]}
    return [
        {
            "$set": {
                "tokens": {"$min": [rate.most, filled]},
                "filled_at": "$$NOW",
                "remove_at": after_ms(rate.most / rate.a_second + KEPT_S),
            }
        },
        {"$set": {"granted": {"$min": [wanted, {"$floor": "$tokens"}]}}},
        {"$set": {"tokens": {"$subtract": ["$tokens", "$granted"]}}},
    ]


def apply(bucket: Bucket, rate: Rate, wanted: int, now: datetime) -> None:
    """Take from a bucket in memory."""
    filled = float(rate.most)
    if "tokens" in bucket:
        gained = round((now - bucket["filled_at"]).total_seconds() * 1000) * (rate.a_second / 1000)
        filled = min(rate.most, bucket["tokens"] + max(0.0, gained))
    bucket["granted"] = min(wanted, math.floor(filled))
    bucket["tokens"] = filled - bucket["granted"]
    bucket["filled_at"] = now


def back(rate: Rate, unused: int) -> list[dict[str, Any]]:
    """Build the update that gives tokens back."""
    return [{"$set": {"tokens": {"$min": [rate.most, {"$add": ["$tokens", unused]}]}}}]


def apply_back(bucket: Bucket, rate: Rate, unused: int) -> None:
    """Give tokens back to a bucket in memory."""
    bucket["tokens"] = min(float(rate.most), bucket["tokens"] + unused)
