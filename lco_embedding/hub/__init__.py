"""Publishing: verify a checkpoint, upload it, and write it in the layout that a reader wants.

verify("folder")                         # every check that fails, as a finding
publish("folder", "me/model")            # verify, then upload
export("folder", "output", "omni")       # another layout
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lco_embedding.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from lco_embedding.hub.layouts import export
    from lco_embedding.hub.publication import publish, upload
    from lco_embedding.hub.verification import Finding, VerificationError, verify

__all__ = [
    "Finding",
    "VerificationError",
    "export",
    "publish",
    "upload",
    "verify",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Finding": "verification",
        "VerificationError": "verification",
        "export": "layouts",
        "publish": "publication",
        "upload": "publication",
        "verify": "verification",
    },
)
