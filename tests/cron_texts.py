"""Random cron expressions, as people write them."""

from hypothesis import strategies as st

WEEKDAYS = ["sun", "MON", "Tue", "wed", "THU", "fri", "Sat", "Sunday", "monday"]
MONTHS = ["jan", "FEB", "Mar", "september", "October", "dec"]
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@st.composite
def items(draw: st.DrawFn, index: int, *, stepped_star: bool = True) -> str:
    """One item of a field's list."""
    low, high = BOUNDS[index]
    weekday = index == 5
    number, other = draw(st.integers(low, high)), draw(st.integers(low, high))
    step = draw(st.integers(1, 7))
    kinds = [
        str(number),
        f"{min(number, other)}-{max(number, other)}",
        f"{min(number, other)}-{max(number, other)}/{step}",
    ]
    if stepped_star:
        kinds.append(f"*/{max(step, 2)}")
    if weekday:
        kinds += [f"{number}-{other}", f"{draw(st.sampled_from(WEEKDAYS))}-{draw(st.sampled_from(WEEKDAYS))}"]
    else:
        kinds.append(f"{number}/{step}")
    kinds += {4: [draw(st.sampled_from(MONTHS))], 5: [draw(st.sampled_from(WEEKDAYS))]}.get(index, [])
    return draw(st.sampled_from(kinds))


def lists(index: int, *, stepped_star: bool = True) -> st.SearchStrategy[str]:
    return st.lists(items(index, stepped_star=stepped_star), min_size=1, max_size=3).map(",".join)


def fields(index: int) -> st.SearchStrategy[str]:
    return st.sampled_from(["*", "?", "*/1"]) | lists(index)


@st.composite
def cron_texts(draw: st.DrawFn) -> str:
    """Five or six fields that mean the same everywhere, and come some day."""
    month = draw(fields(4))
    which = draw(st.sampled_from(["every day", "days", "weekdays", "both"]))
    both = which == "both"
    day = draw(lists(3, stepped_star=not both)) if which in {"days", "both"} else "*"
    weekday = draw(lists(5, stepped_star=not both)) if which in {"weekdays", "both"} else "*"
    if which == "days" and month not in {"*", "?", "*/1"}:
        day += ",13"  # which every month has
    written = [draw(fields(0)), draw(fields(1)), draw(fields(2)), day, month, weekday]
    return " ".join(written[draw(st.integers(0, 1)) :])
