"""Check the environment for settings that nothing reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.settings import Config

_PREFIX = "JSJOBS_"


def unknown_variables(environ: Mapping[str, str], others: Collection[str]) -> Iterator[Finding]:
    """Yield the variables with our prefix that are no setting; their values are not repeated, as they may be secret.

    Args:
        environ: The environment.
        others: The names of variables that are read, beside those of the settings.
    """
    known = {f"{_PREFIX}{name.upper()}" for name in Config.model_fields} | set(others)
    unknown = [name for name in sorted(environ) if name.upper().startswith(_PREFIX) and name.upper() not in known]
    for name in unknown:
        # Compare without the prefix, which would make all names alike.
        close = get_close_matches(name.upper()[len(_PREFIX) :], [each[len(_PREFIX) :] for each in known], n=1)
        remedy = f"did you mean {_PREFIX}{close[0]}?" if close else "remove it"
        yield Finding("environment", Severity.WARNING, "no setting has this name", name, remedy)
    if not unknown:
        yield Finding("environment", Severity.OK, "every variable with the prefix JSJOBS_ is a setting", "")
