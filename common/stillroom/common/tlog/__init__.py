"""A transparency log that any third party's verifier can read: the formats of C2SP."""
