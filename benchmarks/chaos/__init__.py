"""Things broken on purpose under load, and what became of the requests meanwhile."""
