"""The command line: one module per command, which parses and prints but decides nothing."""
