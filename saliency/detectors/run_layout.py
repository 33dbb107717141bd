"""What a finished run of `saliency train` holds; apart, for those who look without importing torch."""

DETECTOR_FILE = "detector.json"
