"""The command `align audit`: a recipe, a part, the published forms, or the answers of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from align.audit import published, show
from align.audit.show import show_run
from align.audit.targets import certificates
from align.errors import UserError


def report(what: str | None, overrides: Sequence[str], table: bool, as_json: bool, out: Console) -> bool:
    """Print an audit, and return whether no gradient is biased without `allow_biased`; True for `table` and for a run.

    Args:
        what: A recipe, a part, or the folder of a run; None with `table`, the published forms side by side.
        overrides: Strings `key.path=value` for the recipe or the part.

    Raises: UserError for what cannot be audited.
    """
    if what is not None and Path(what).is_dir():
        if overrides:
            raise UserError(f"{overrides[0]} changes nothing: a run has its recipe")
        show_run(Path(what), as_json, out)
        return True
    found = published.forms() if what is None else certificates(what, overrides)
    if as_json:
        print(json.dumps(show.data(found), indent=2))
    else:
        (published.show if table else show.show)(found, out)
    return table or all(c.passes for c in found)
