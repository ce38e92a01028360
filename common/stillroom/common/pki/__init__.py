"""Names, issuing and checking of certificates: bytes in, bytes out, no sockets."""
