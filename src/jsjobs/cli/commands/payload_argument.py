"""A command whose last argument is a payload, which may be a negative number."""

import re
from itertools import pairwise
from typing import Any

from typer.core import TyperCommand, TyperOption

_LIKE_A_NUMBER = re.compile(r"-\.?[0-9].*", re.DOTALL)


class PayloadCommand(TyperCommand):
    """A command that takes `-5` as a payload, where other commands would look for an option of that name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; no option of ours begins with a digit."""
        valued = {
            name
            for option in self.get_params(ctx)
            if isinstance(option, TyperOption) and not option.is_flag
            for name in option.opts
        }
        # A space before a number changes nothing in JSON, and no option begins with one.
        shifted = [
            f" {arg}" if _LIKE_A_NUMBER.fullmatch(arg) and before not in valued else arg
            for before, arg in pairwise(["", *args])
        ]
        return super().parse_args(ctx, shifted)
