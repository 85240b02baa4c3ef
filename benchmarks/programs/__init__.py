"""Other programs that apply adapters, to judge them."""
