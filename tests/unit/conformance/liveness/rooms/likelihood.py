from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.enumeration import NAME

from liveness import Change
from liveness.batch import context

CHANGES = {("sel", "teacher"): Change(NAME)}


def probe(part: Any, **_) -> Any:
    ctx = context()
    batch = replace(ctx.batch, teacher_logp=ctx.batch.sampler_logp)
    return part.losses(replace(ctx, batch=batch, rescaled_logp=None if part.rescaled is None else ctx.logp / part.rescaled))
