"""Whether the images of today are still like those that the model was calibrated on."""
