"""Real nodes under real faults: processes, network namespaces, file systems; recorded histories and their checks."""
