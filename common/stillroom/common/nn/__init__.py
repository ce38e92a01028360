"""Networks and their named parameter groups. The only part of common that imports torch."""
