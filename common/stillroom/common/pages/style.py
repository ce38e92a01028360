"""The report's style sheet, ``style.css`` beside this module, as text."""

from importlib.resources import files


def sheet() -> str:
    """The whole sheet. It stands inside ``<style>`` and therefore holds no ``<``."""
    return files("stillroom.common.pages").joinpath("style.css").read_text("utf-8")
