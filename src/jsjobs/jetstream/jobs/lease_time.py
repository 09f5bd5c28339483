"""The time for which a delivery is surely its worker's."""

from __future__ import annotations


class LeaseTime:
    """The time for which a delivery is ours: it follows the server's `ack_wait`, which may change while workers run."""

    def __init__(self, ack_wait: float) -> None:
        self.set(ack_wait)

    def set(self, ack_wait: float) -> None:
        """Set a new `ack_wait`: the seconds without an answer after which the server redelivers."""
        self.ack_wait = ack_wait
        self.margin = min(5.0, max(ack_wait / 6, min(1.5, ack_wait / 3)))
        """Seconds before the end of `ack_wait` at which a delivery no longer counts as ours: a sixth, at most 5 s.

        A server that was killed and restarted delivers up to a second early, so a short `ack_wait` has a larger share
        of margin: docs/server-quirks.md#an-early-delivery.
        """
        self.lease = ack_wait - self.margin
        """Seconds for which a delivery is surely ours."""
