"""Checkpoints leave the house verified, in the layout that their readers want, and come back at one revision.

    verify("folder")                         # every check that fails, as a finding
    publish("folder", "me/model")            # verify, then upload
    export("folder", "output", "omni")       # another layout

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lco_embedding.hub.layouts import export
    from lco_embedding.hub.publication import publish, upload
    from lco_embedding.hub.verification import Finding, VerificationError, verify

_HOMES = {
    "Finding": "verification",
    "VerificationError": "verification",
    "export": "layouts",
    "publish": "publication",
    "upload": "publication",
    "verify": "verification",
}

__all__ = ["Finding", "VerificationError", "export", "publish", "upload", "verify"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
