"""Pure-function decoders and their checkpoint formats."""
