"""The sequencer of channels."""
