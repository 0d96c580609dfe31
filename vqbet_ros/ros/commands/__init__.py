"""Commands to robots: one file for each interface, behind one protocol."""
