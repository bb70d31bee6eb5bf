"""Export exams of a lake to formats that other programs read."""
