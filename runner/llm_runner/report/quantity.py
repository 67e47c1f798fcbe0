"""Quantities in words that people read at a glance."""

import math


def describe_number(value: float) -> str:
    """Whole numbers whole, others with four decimals."""
    is_whole = math.isfinite(value) and value == int(value)
    return f"{value:,.0f}" if is_whole else f"{value:,.4f}"


def describe_duration(seconds: float) -> str:
    """``45s``, ``12m 30s``, ``3h 05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def describe_size(size_bytes: int) -> str:
    """Decimal units: ``512 B``, ``3.71 MB``."""
    size, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"
