"""Weights in others' layouts, published ones and Hugging Face's: import and export, every tensor accounted for."""
