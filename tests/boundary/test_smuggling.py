"""Nothing but the manifest's tensors and a few numbers gets out; nothing but the study gets in."""

from pathlib import Path
from typing import Any

import attempts
import pytest
import smuggling
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from stillroom.common.messages import read_reply

pytestmark = pytest.mark.usefixtures("inside_a_task")


@pytest.mark.parametrize("case", smuggling.CASES, ids=lambda case: case.name)
def test_it_is_refused(case: Any, tmp_path: Path) -> None:
    """No payload on the wire, the code in the ledger, the same verdict at the server."""
    result = attempts.attempt(case, tmp_path)
    refusal = result.lines[-1]

    assert result.payload == 0
    assert refusal.code in case.codes
    assert refusal.decision == "refused"
    assert not any(line.kind == "sent" for line in result.lines)
    assert result.left_behind == []
    assert attempts.PATIENT not in (tmp_path / "ledger.jsonl").read_text()
    if case.stray:
        assert not result.wire.pushed
    else:
        assert result.code == refusal.code
    if case.server:
        assert result.server in case.server


def test_an_honest_update_leaves(tmp_path: Path) -> None:
    """The same path lets the real thing through, and the ledger holds its digest."""
    result = attempts.attempt(attempts.Case("honest", (), ("-",)), tmp_path)
    task, sent = result.lines

    assert (task.kind, sent.kind, sent.decision) == ("task", "sent", "allowed")
    assert sent.content == attempts.digest(attempts.GOOD_FILE)
    assert (sent.bytes, sent.encoding) == (len(attempts.GOOD_FILE), "fp32")
    assert sent.samples == attempts.SAMPLES
    assert sent.metrics == attempts.METRICS
    assert result.server == "admitted"
    reply = inflate_object_from_contents(
        result.wire.pushed[0].metadata.message_id, dict(result.wire.objects)
    )
    assert reply.metadata.reply_to_message_id == result.wire.message.metadata.message_id
    told = read_reply(reply)
    assert told.samples == attempts.SAMPLES
    assert told.update is not None
    assert result.wire.sent == {told.update.sha256: attempts.GOOD_FILE}
    # First the file, then the message that names it.
    assert [kind for kind, _ in result.wire.log][:3] == ["confirm", "file", "push"]
