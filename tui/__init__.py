"""Textual screens over the local API's client."""
