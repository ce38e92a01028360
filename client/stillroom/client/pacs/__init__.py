"""From a PACS to this site's own data folder: asked by list, counted, without identity.

A process of its own (``stillroom-client data pull``): the courier has the internet and no scan,
the runner has scans and no network, and neither imports what is in here.
"""
