"""The contract between training and serving: rendering, encoding, calibration, bundles. Never torch."""
