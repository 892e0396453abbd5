"""Doors from other libraries, each of which is imported when its adapter is."""
