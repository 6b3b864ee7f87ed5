"""Pages and words for people: a run's report, a data set's card, and the templates of both."""
