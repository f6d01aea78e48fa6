"""AlpacaEval's win rate: contests, their judges, length control."""
