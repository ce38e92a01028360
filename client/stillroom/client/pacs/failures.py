"""What a PACS can do to a pull, in words for the people who run both.

No message quotes what a PACS sent, a query, an address with a query in it, or an exception's text:
accession numbers and names travel in all of them.
"""

from stillroom.common.errors import DataError

FIX = {
    "STR-440": "Check that the PACS runs and that the firewall inside the hospital lets this machine reach"
    " its address and port.",
    "STR-441": "Ask the PACS administrator for its AE title and write it as called_ae; capitals count.",
    "STR-442": "Ask the PACS administrator to enter this machine's AE title (calling_ae), address and"
    " store_port.",
    "STR-443": "Ask the PACS administrator to allow this AE title to query and retrieve; or try"
    ' retrieve = "get" or "move".',
    "STR-444": "Check user, password_file or headers_file, and that this user may query and retrieve.",
    "STR-445": "Write the CA that issued the PACS's certificate as `ca`, and use the name in that certificate"
    " in url or host; have the PACS trust this site's certificate, and speak TLS to store_port.",
    "STR-449": "Run the same command again; if it stays so, ask the PACS administrator about this study.",
    "STR-451": "Ask the PACS administrator to enter calling_ae as a move destination with this machine's"
    " address and store_port, and open that port in the firewall inside the hospital.",
    "STR-452": "Make room where pacs.folder lies, or lower keep_free_mib, and run the same command again.",
    "STR-453": "Ask the PACS administrator to look into its log at this time.",
    "STR-456": "Ask for studies that hold the original CT reconstruction.",
}
"""What to do about each; the sentence says what was seen."""

STOPPING = frozenset({"STR-440", "STR-441", "STR-442", "STR-443", "STR-444", "STR-445", "STR-452"})
"""Codes after which the next series would fare no better: the pull ends."""


def failure(code: str, what: str) -> DataError:
    """A ``DataError`` with the fix for ``code``."""
    return DataError(what, fix=FIX[code], code=code)
