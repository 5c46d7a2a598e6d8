"""One file a stage. `run(found, device)` puts into `found` what it learns, as it goes."""
