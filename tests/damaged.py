"""Valid inputs with a little damage: what is read although something is wrong with it is where readers go wrong."""

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T", str, bytes)


@st.composite
def damaged(draw: st.DrawFn, valid: st.SearchStrategy[T], bits: st.SearchStrategy[T]) -> T:
    """A valid input, more often than not; else one in which a bit was put in, or in the place of up to two others."""
    text = draw(valid)
    for _ in range(max(0, draw(st.integers(0, 9)) - 6)):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(bits) + text[at + draw(st.integers(0, 2)) :]
    return text
