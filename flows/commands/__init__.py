"""The commands of `tinygptv`: what can be typed (`grammar`, `*_commands`), and what each does and reports."""
