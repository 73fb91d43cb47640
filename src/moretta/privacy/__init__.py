"""Promises that need no picture: releases with a stated epsilon, keys, sealed envelopes. No torch."""
