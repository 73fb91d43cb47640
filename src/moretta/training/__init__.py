"""Recipes that train networks: one a file, each runnable with python -m; data stays outside."""
