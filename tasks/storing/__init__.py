"""Around the store: records and their differences, lineage, traces, inventory, copies elsewhere."""
