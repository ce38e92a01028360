"""Two things at once, of which one decides whether the other counts."""

import threading

import pytest

from stillroom.client.alongside import alongside


def test_both_run_at_the_same_time() -> None:
    """The call runs while the block does, and the block's end waits for it."""
    inside, done = threading.Event(), list[str]()

    def call() -> None:
        assert inside.wait(10)
        done.append("call")

    with alongside(call):
        inside.set()
    assert done == ["call"]


def test_what_the_call_raises_is_raised() -> None:
    """Though the block ended well."""

    def call() -> None:
        raise KeyError("call")

    with pytest.raises(KeyError, match="call"), alongside(call):
        pass


def test_the_call_is_heard_before_the_block() -> None:
    """When both fail, the call's reason is the one that counts, and the block's is its context."""

    def call() -> None:
        raise KeyError("call")

    with pytest.raises(KeyError, match="call") as caught, alongside(call):
        raise ValueError("block")
    assert isinstance(caught.value.__context__, ValueError)


def test_what_the_block_raises_is_raised() -> None:
    """After a call that ended well."""
    done = list[str]()

    with pytest.raises(ValueError, match="block"), alongside(lambda: done.append("call")):
        raise ValueError("block")
    assert done == ["call"]


def test_without_a_call() -> None:
    """Only the block runs."""
    with pytest.raises(ValueError, match="block"), alongside(None):
        raise ValueError("block")
