"""What is on disk: the ground floor, standard library and orjson only."""
