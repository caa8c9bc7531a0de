"""Configuration, training, search, protocol and tracking: from a study file to records."""
