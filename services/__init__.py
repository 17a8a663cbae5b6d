"""The services of the suite: one package per scenario, the kit they stand on, and `local`, the suite on one machine."""
