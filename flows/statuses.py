"""The exit statuses of the command: done, the run failed or was stopped, the user's mistake."""

DONE, FAILED, MISTAKE = 0, 1, 2
