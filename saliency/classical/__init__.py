"""Learning-free detectors; a file's name is the detector's name on the command line."""
