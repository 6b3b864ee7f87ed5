"""What a run says: on the terminal, in Prefect's interface, in the store's notes, at its end."""
