"""The workloads that are measured; each module has `measure`, `report`, `ratios` and, where a picture helps, `plot`."""
