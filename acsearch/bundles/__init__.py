"""Studies as files: exported from one cluster, merged into another."""
