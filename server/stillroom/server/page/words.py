"""Reasons for which the edge refuses, in words. Pure."""

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "no-site-certificate": "a certificate that names no site",
    "path": "asked for something that is not for sites",
    "no-node-key": "no node key, or not one",
    "key-mismatch": "another key than the certificate's",
    "expired": "an expired certificate",
    "revoked": "a site that was revoked",
    "not-enrolled": "a site that is not enrolled, or not yet",
    "other-key": "another key than the one that was enrolled",
    "weak-key": "a key of another kind than ours",
    "not-a-site-certificate": "a certificate that is not a site's",
    "node-authentication": "a clock that is wrong, or a stale signature",
    "tls-no-certificate": "no certificate: a browser or a scanner",
    "tls-version": "an older TLS than 1.3",
    "tls-plaintext": "no TLS at all",
    "tls-key-not-held": "a certificate without its key",
    "tls-expired": "an expired certificate",
    "tls-not-yet-valid": "a certificate from the future: a clock that is wrong",
    "tls-self-signed": "a certificate that signed itself",
    "tls-other-ca": "a certificate of another CA",
    "tls-wrong-usage": "a certificate for another use",
    "tls-certificate": "a certificate that does not hold",
    "tls-other": "a handshake that failed otherwise",
    "cut-expired": "cut: its certificate ran out",
    "cut-revoked": "cut: it was revoked",
    "cut-not-enrolled": "cut: no longer enrolled",
    "cut-other-key": "cut: enrolled anew with another key",
}
"""Every reason of ``edge`` and ``membership``."""
