"""One step per module: its name, version, inputs, and a plain function; and the store that caches results."""
