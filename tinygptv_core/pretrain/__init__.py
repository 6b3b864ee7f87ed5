"""The backbones of the `nano` preset, trained by the project itself on its own scenes."""
