"""Pushing over HTTP: who waits, what a push looks like, where it may go, what is given up."""
