"""How answers are chosen, ranked and scored."""
