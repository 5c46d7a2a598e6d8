"""Every key of every part and section is alive: with another value of it, something that can be seen is different.

What is seen is a loss, a gradient, a statistic, a weight, a reward, examples, a schedule, or a declared side effect (the size of a
batch of the engine, the options of an actor). A number is made half as large again, a truth value turned round; where that is not
enough, the room's file in `liveness/rooms` has the other value and what both sides need beside it. A key that nobody sees fails here, so
none can land dead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.enumeration import NAME
from liveness import Change
from liveness.leaves import CHANGES, LEAVES, REQUIRED, ROOMS, changed, parts, seen
from liveness.nodes import text
from liveness.places import made
from liveness.runs import LINK, RANKED, updated

from align.config import registry
from align.errors import UserError

LINKED: dict[str, Change] = {
    "divergence": Change("jensen_shannon"),
    "estimator": Change("exact"),
    "coefficient": Change(0.2),
    "weighting": Change("sampo"),
    "reference": Change({"name": "ema", "rate": 0.5}),
    "clamp": Change(1e-3),
}
"""What a regularizer reads of its keys where it is placed as the link of a preference loss."""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("liveness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        yield made(folder)


def test_there_is_a_probe_for_every_room():
    assert ROOMS.keys() == registry.ROOMS.keys()


def test_the_tables_name_what_there_is():
    known = {leaf[:3] for leaf in LEAVES}
    stale = [key for key in CHANGES if key not in known and "*" not in key]
    assert not stale and REQUIRED.keys() <= set(parts())


@pytest.mark.parametrize(("kind", "part"), [*dict.fromkeys(leaf[:2] for leaf in LEAVES if leaf[0] != "recipe")])
def test_nothing_is_seen_to_change_by_itself(kind: str, part: str, places: dict[str, str]):
    node = changed(kind, part, "*", 0)[0]
    first = seen(kind, part, "", node, places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("liveness.runs.RUNS", {})
        assert seen(kind, part, "", node, places) == first


@pytest.mark.parametrize(("kind", "part", "field", "default"), LEAVES, ids=[".".join(filter(None, leaf[:3])) for leaf in LEAVES])
def test_every_key_is_alive(kind: str, part: str, field: str, default: Any, places: dict[str, str]):
    base, other, stops = changed(kind, part, field, default)
    assert text(base) != text(other)
    if stops:
        outcomes = []
        for node in (base, other):
            try:
                outcomes.append(bool(seen(kind, part, field, node, places)))
            except UserError:
                outcomes.append(False)
        assert sorted(outcomes) == [False, True]
    else:
        assert seen(kind, part, field, base, places) != seen(kind, part, field, other, places)


@pytest.mark.parametrize("field", LINKED)
def test_every_key_of_a_link_is_alive(field: str, places: dict[str, str]):
    nodes = [{"algorithm": "dpo", "regularizers": {NAME: link}} for link in (LINK, LINK | {field: LINKED[field].to})]
    one, other = (updated(RANKED | node, places, fresh=True) for node in nodes)
    assert one != other


def test_the_table_of_links_names_every_key_that_a_link_reads():
    """The others are refused beside it (test_link_penalty.py), or say what it is."""
    composed = {f.name for f in dataclasses.fields(registry.resolve("regularizer", "composed", ""))}
    assert composed - LINKED.keys() == {"placement", "credit", "ratio_to", "ratio_cap", "beyond_cap", "allow_biased"}
