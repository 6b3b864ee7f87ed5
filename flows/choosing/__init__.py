"""What a person asks for, made into steps: choice, presets, recipes, Prefect's forms, and early checks of them."""
