"""Strict decoding of pictures, and the search for those that look alike."""
