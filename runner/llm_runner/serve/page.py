"""The page at ``/`` to try the model in a browser: one file, whose own script and style alone may run.

It asks the server by the same paths as any client, with the key that its user writes. Knows no models.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse

PAGE_PATH = Path(__file__).with_name("page.html")
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


async def show_page() -> HTMLResponse:
    """Revalidated at each visit, as a new version of the server brings another one."""
    page = read_page()
    headers = {
        "Content-Security-Policy": build_policy(page),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(page, headers=headers)


@cache
def read_page() -> str:
    return PAGE_PATH.read_text("utf-8")


def build_policy(page: str) -> str:
    """Content security policy that lets the page's inline parts run, found by their hashes, and nothing else."""
    hashes: dict[str, str] = {kind: _hash(content) for kind, content in INLINE.findall(page)}
    rules = {
        "default-src": "'none'",
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
