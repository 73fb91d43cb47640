"""Faces in photos: find them, crop them, mask them, compare them. Arrays in, arrays out."""
