"""Around the steps of training: saving, watching, telling, and what several processes agree on."""
