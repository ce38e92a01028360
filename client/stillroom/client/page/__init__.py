"""The site's page and its metrics: what the courier's own files say. It never opens a scan."""
