"""Models of each framework to safe files and back: a module a framework."""
