"""The only place where photos, faces, methods and manifest meet."""
