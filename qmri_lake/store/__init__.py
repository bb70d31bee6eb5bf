"""A lake's storage: repositories, locks, arrays, commits, the status of exams and runs."""
