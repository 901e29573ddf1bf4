"""What calibrated probabilities are for: thresholds with a promise, artefacts, alarms."""
