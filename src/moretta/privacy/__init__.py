"""Promises: noise and its ledger, keys and envelopes, the keyed pseudonym. No torch, no files."""
