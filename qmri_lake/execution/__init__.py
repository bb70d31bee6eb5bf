"""Declaration, planning and execution of steps, on any Dask cluster or lazily in a session."""
