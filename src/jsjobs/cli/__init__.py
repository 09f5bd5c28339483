"""The command line: options in, tables and exit codes out."""
