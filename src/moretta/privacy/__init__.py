"""Promises that can be proved: releases with a stated epsilon, and what they add up to."""
