"""Studies as files (bundles): exported from one cluster, imported into another."""
