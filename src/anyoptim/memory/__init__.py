"""Bytes before anything is built, of one process and of many."""
