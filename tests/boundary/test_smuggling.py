"""Nothing but the manifest's tensors and a few numbers gets out; nothing but the study gets in."""

from pathlib import Path
from typing import Any

import pytest
import smuggling

pytestmark = pytest.mark.usefixtures("inside_a_task")


@pytest.mark.parametrize("case", smuggling.CASES, ids=lambda case: case.name)
def test_it_is_refused(case: Any, tmp_path: Path) -> None:
    """No payload on the wire, the code in the ledger, the same verdict at the server."""
    result = smuggling.attempt(case, tmp_path)
    refusal = result.lines[-1]

    assert result.payload == 0
    assert refusal.code in case.codes
    assert refusal.decision == "refused"
    assert not any(line.kind == "sent" for line in result.lines)
    assert smuggling.PATIENT not in (tmp_path / "ledger.jsonl").read_text()
    if case.stray:
        assert not result.wire.pushed
    else:
        assert result.code == refusal.code
    if case.server:
        assert result.server in case.server


def test_an_honest_update_leaves(tmp_path: Path) -> None:
    """The same path lets the real thing through, and the ledger holds its digest."""
    result = smuggling.attempt(smuggling.Case("honest", (), ("-",)), tmp_path)
    task, sent = result.lines

    assert (task.kind, sent.kind, sent.decision) == ("task", "sent", "allowed")
    assert sent.content == smuggling.sha256(smuggling.serialise(smuggling.GOOD)).hexdigest()
    assert sent.samples == smuggling.SAMPLES
    assert sent.metrics == smuggling.METRICS
    assert result.server == "admitted"
    reply = smuggling.inflate_object_from_contents(
        result.wire.pushed[0].metadata.message_id, dict(result.wire.objects)
    )
    assert reply.metadata.reply_to_message_id == result.wire.message.metadata.message_id
    assert smuggling.read_reply(reply).samples == smuggling.SAMPLES
