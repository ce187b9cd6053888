"""Jobs on small marketplaces."""
