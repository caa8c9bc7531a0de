"""From records to tidy frames, statistics, tables and figures."""
