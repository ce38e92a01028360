"""A site that was approved a moment ago: the server's two lists may still differ. Pure.

Approval is one transaction in the registry. The edge reads that registry and lets the site in at
once; Flower's own list of node keys follows within a second. In between, an enrolled site hears
that it is unknown, and the right thing to do is to ask again.
"""

from datetime import datetime, timedelta

YOUNG = timedelta(minutes=5)
"""Since the certificate was issued, which is the moment of approval."""
PATIENCE_S = 5.0
"""Ten times what the server's list takes to follow."""
NOT_KNOWN = frozenset({401, 412})
"""The edge's word, and Flower's for a key it does not know."""


def may_be_known_soon(status: int, issued: datetime, now: datetime, waited_s: float) -> bool:
    """True when a refusal is worth a few more questions.

    Args:
        status: HTTP status of the refusal.
        issued: When this site's certificate was issued, aware.
        now: Aware time. A clock that is behind the server's makes ``issued`` lie in the future,
            which is young, too.
        waited_s: Seconds since the first refusal.
    """
    return status in NOT_KNOWN and now - issued < YOUNG and waited_s < PATIENCE_S
