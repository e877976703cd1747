"""How probable given answers are: candidates as one token tree."""
