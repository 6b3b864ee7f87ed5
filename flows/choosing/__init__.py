"""What a person asks for, made into steps: choice, presets, Prefect's forms, and early checks of them."""
