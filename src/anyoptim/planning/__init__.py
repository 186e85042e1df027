"""Plans: what would be built, said to a person, and built when asked."""
