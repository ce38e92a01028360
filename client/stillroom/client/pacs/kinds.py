"""Which kinds of object a pull keeps (PS3.4 table B.5-1), by their SOP class. Pure."""

CT = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image
    }
)
SEG = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    }
)
RTSTRUCT = frozenset({"1.2.840.10008.5.1.4.1.1.481.3"})

PICTURES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, and its multi-frame kin
        "1.2.840.10008.5.1.4.1.1.7.1",
        "1.2.840.10008.5.1.4.1.1.7.2",
        "1.2.840.10008.5.1.4.1.1.7.3",
        "1.2.840.10008.5.1.4.1.1.7.4",
    }
)
"""Taken from the PACS so that they can be refused by name (STR-423); never written."""

KEPT = {"CT": CT, "SEG": SEG, "RTSTRUCT": RTSTRUCT}
"""Modality -> SOP classes."""
RECEIVED = tuple(sorted(CT | SEG | RTSTRUCT | PICTURES))
"""What the C-STORE side offers to take."""
