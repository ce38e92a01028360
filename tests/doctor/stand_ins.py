"""Who may stand in the way: a security gateway that opens TLS, and another machine that has TLS.

``stand_ins.py PORT HOST ORGANISATION [--connect]`` listens at loopback with a certificate for HOST that
a CA of ORGANISATION issued; ``--connect`` answers a proxy's CONNECT first.
"""

import contextlib
import socket
import ssl
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_chain(host: str, organisation: str) -> tuple[bytes, bytes]:
    """A certificate for ``host`` and its key, PEM, as an inspecting gateway mints them."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, "Gateway CA"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def serve(port: int, host: str, organisation: str, *, connect: bool) -> None:
    """Shake hands with everybody, for ever."""
    certificate, key = make_chain(host, organisation)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("c.pem", certificate), ("k.pem", key)):
            Path(folder, name).write_bytes(data)
        context.load_cert_chain(Path(folder, "c.pem"), Path(folder, "k.pem"))
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_greet, args=(sock, context, connect), daemon=True).start()


def _greet(sock: socket.socket, context: ssl.SSLContext, connect: bool) -> None:
    with contextlib.suppress(OSError), sock:
        sock.settimeout(5)
        if connect:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(4096)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3], connect="--connect" in sys.argv)
