"""How often a stage's noise may be spent: epsilon holds for one update a round and no more.

The runner keeps its answer and gives the same one again. Should it be lost, or should the server
ask the same round from another model, a second update with other noise would leave, and the two
together tell more than epsilon says. So the courier counts, in the ledger, what has left.
"""

from collections.abc import Iterable

from stillroom.client.ledger import Line
from stillroom.common.errors import TrustError
from stillroom.common.study import PreparedStudy


class Budget:
    """What has left of every stage with privacy, over all runs of the study.

    Args:
        prepared: Says which stages have privacy, and how many rounds were accounted for.
        lines: The site's ledger so far. A line that says ``sent`` counts, whether or not the
            answer arrived.
    """

    def __init__(self, prepared: PreparedStudy, lines: Iterable[Line]) -> None:
        self._left = {
            stage.name: (stage.rounds, set[str]())
            for stage in prepared.study.stage
            if stage.privacy is not None
        }
        if not self._left:
            return  # nothing to read a long ledger for
        for line in lines:
            if line.study == prepared.digest and line.kind == "sent" and line.content:
                self.spend(line.stage, line.content)

    def require(self, stage: str, content: str) -> None:
        """Refuse a file that would be one more than was accounted for.

        Args:
            stage: Its stage.
            content: Its SHA-256; one that has left before tells nothing new.

        Raises:
            TrustError: STR-215.
        """
        rounds, left = self._left.get(stage, (0, {content}))
        if content not in left and len(left) >= rounds:
            raise TrustError(
                f"Stage {stage} has {rounds} noised updates in its epsilon, and all have left.",
                fix="Prepare the study again under another seed, and ask for consent to it.",
                code="STR-215",
            )

    def spend(self, stage: str, content: str) -> None:
        """Note that a file leaves."""
        if stage in self._left:
            self._left[stage][1].add(content)
