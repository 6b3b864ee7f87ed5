"""Pages for people and their templates: the report of a run, the card of a data set."""
