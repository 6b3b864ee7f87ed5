"""The commands of `tinygptv`: what can be typed, and what each does and says."""
