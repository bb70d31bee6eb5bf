"""Content of a lake: declared variables, their groups, and the key of an exam."""
