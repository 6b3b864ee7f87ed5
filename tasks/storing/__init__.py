"""Around the store: leases, records and their differences, lineage, traces, inventory, copies elsewhere."""
