"""From files a hospital has to working copies that recipes can learn from."""

import logging

# pydicom logs the values of odd tags, names and identifiers among them. A log may leave the site,
# so this logger is off wherever scans are read; what matters is told by findings.
logging.getLogger("pydicom").disabled = True
