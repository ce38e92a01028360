"""``stillroom-audit replay``, without torch; ``make proof`` makes whole rehearsals again."""

from pathlib import Path

import pytest
import replays


@pytest.mark.parametrize(
    ("encoding", "name", "keep"),
    [
        ("int8-delta", "FedAdam over a trimmed mean, updates shortened", "all"),
        ("fp32", "FedAdam over a trimmed mean, updates shortened, moving average", "last"),
    ],
)
def test_rounds_come_out_the_same(encoding: str, name: str, keep: str, tmp_path: Path) -> None:
    """Bit for bit, whatever the server remembers from round to round, in either order of answers."""
    rules = {name: (replays.RULES | replays.AVERAGED)[name]}

    (made,) = replays.trials(tmp_path, (encoding,), rules, keep=keep)

    assert (made.same, made.of) == ((3, 3) if keep == "all" else (1, 1))
    assert made.note.startswith("either order of answers")
