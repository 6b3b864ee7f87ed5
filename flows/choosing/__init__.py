"""What a person asks for, made into steps: presets, recipes, forms, and every mistake found there."""
