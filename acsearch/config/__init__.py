"""Files and settings become typed values here, strictly: study files, table files, priors, settings."""
