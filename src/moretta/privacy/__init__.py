"""Promises that need no picture: keys and the sealed envelope. No torch, no files."""
