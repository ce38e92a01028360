"""What the report, the site's page and the operator's page are made of, and how pages are served."""
