"""Spans of time as people read them: 45s, 12m, 3h20m, 2d4h. The two largest units, as kubectl writes ages."""

UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
MINUTES_ALONE_BELOW_SECONDS = 3600


def format_seconds(seconds: float) -> str:
    """Below an hour one unit is enough; above, the next smaller one is added where it isn't 0."""
    whole = max(0, round(seconds))
    index = next((index for index, (_, size) in enumerate(UNITS) if whole >= size), len(UNITS) - 1)
    unit, size = UNITS[index]
    text = f"{whole // size}{unit}"
    if whole < MINUTES_ALONE_BELOW_SECONDS:
        return text
    smaller, smaller_size = UNITS[index + 1]
    rest = whole % size // smaller_size
    return f"{text}{rest}{smaller}" if rest else text
