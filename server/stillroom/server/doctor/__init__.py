"""``stillroom-server doctor``: what is wrong with a consortium's server, and what to do about it.

Looks, and changes nothing; may be run while the server runs.
"""
