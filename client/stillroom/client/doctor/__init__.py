"""``stillroom-client doctor``: what is wrong at this site, with what to do about it.

Probes look (``line``, ``machine``, ``folders``); everything that decides what a sight means takes it
as an argument. ``checks`` has the list, in the order in which a person would look.
"""
