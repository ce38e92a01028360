"""Style sheets, which lie beside this module, as text."""

from importlib.resources import files


def sheet() -> str:
    """That of every page. It may stand inside ``<style>`` and therefore holds no ``<``."""
    return _text("style.css")


def live_sheet() -> str:
    """That of pages which are served: the same, and what only they have."""
    return _text("style.css") + _text("live.css")


def _text(name: str) -> str:
    return files("stillroom.common.pages").joinpath(name).read_text("utf-8")
