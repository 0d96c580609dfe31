"""The command line: `vqbet <command>`."""
