"""What a fitted model does: predict, calibrate, compare posteriors, load and export."""
