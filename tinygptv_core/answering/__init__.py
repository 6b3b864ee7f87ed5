"""How answers are decoded, ranked and scored."""
