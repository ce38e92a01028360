"""The page about the ledger: its example holds by the rules that the page itself gives."""

import hashlib
import json
import re
from pathlib import Path

from stillroom.client.ledger import Line, check
from stillroom.deploy.ledger_page import KINDS, ledger_page

PAGE = ledger_page()
EXAMPLE, SCHEMA = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_a_ledger(tmp_path: Path) -> None:
    """The program accepts it, and so does a hand that follows the three rules."""
    (tmp_path / "ledger.jsonl").write_text(EXAMPLE)
    assert check(tmp_path / "ledger.jsonl").lines == 3

    before = "0" * 64
    for number, raw in enumerate(EXAMPLE.splitlines()):
        line = json.loads(raw)
        assert (line["sequence"], line["prev"]) == (number, before)
        assert raw == json.dumps(line, sort_keys=True, separators=(",", ":"))
        before = hashlib.sha256(raw.encode()).hexdigest()


def test_every_kind_and_field_is_told() -> None:
    """A new kind or field of the model is on the page, with words for it."""
    schema = json.loads(SCHEMA)
    assert set(schema["properties"]["kind"]["enum"]) == set(KINDS)
    assert [*schema["required"], "encoding"] == sorted(
        Line.model_fields, key=lambda name: (name == "encoding", name)
    )
    assert all(field.description for name, field in Line.model_fields.items() if name != "kind")
    for line in EXAMPLE.splitlines():
        assert sorted(json.loads(line).keys() - {"encoding"}) == schema["required"]
